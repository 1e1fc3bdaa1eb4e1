"""Measuring real hosts and fitting profiles to them."""
