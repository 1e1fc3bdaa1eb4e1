"""Data only: hardware profiles, models and experiments, found beside the package `sim`."""
