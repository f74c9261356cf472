"""The edge to PyTorch: states to drafts, trees to states. Nothing below this package knows torch."""
