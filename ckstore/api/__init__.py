"""What `ckstore.open` returns, and what only this floor may ask: environment, user, clock."""
