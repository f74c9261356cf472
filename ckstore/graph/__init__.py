"""Algorithms over commits and trees, from any ObjectReader."""
