"""Results for people: tables on the terminal, HTML pages."""
