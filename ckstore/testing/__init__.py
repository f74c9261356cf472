"""A published test kit for what others build on ckstore; each module says what it checks. It needs no pytest."""
