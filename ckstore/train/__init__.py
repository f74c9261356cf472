"""A training run over a repository: what it consists of, when it is committed, and how it goes on exactly."""
