"""What results mean: what binds, what would help, what numbers matter, what a formula says."""
