"""Stored values and their canonical bytes: leaves, trees, commits."""
