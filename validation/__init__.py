"""Measured data and the comparison of predictions with it."""
