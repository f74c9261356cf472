"""The `ckstore` command."""
