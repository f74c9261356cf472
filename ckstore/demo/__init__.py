"""A training run to try ckstore on: real, small, and killed on purpose."""
