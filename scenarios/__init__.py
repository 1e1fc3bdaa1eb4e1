"""Data only: hardware profiles, models and experiments, found through importlib.resources."""
