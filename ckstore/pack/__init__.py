"""Packs: immutable files of self-describing frames."""
