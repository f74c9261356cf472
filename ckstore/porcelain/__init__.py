"""The verbs, one a module: each takes a Repository and frozen options and returns a frozen result. None prints."""
