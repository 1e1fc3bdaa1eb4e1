"""Workloads: blocks written out, and named models that derive them from shapes."""
