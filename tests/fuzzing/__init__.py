"""Random input of every kind, and judgement of what the command line and the readers make of it (`tests/fuzz.py`)."""
