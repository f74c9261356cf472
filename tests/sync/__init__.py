"""Remotes: formats, push, fetch, gc, and all of them at once."""
