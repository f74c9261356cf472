"""What `ckstore.open` returns, and what only this floor may ask: environment, user, clock."""

from ckstore.api.checkpoint import Checkpoint
from ckstore.api.environment import default_author, default_cache, now, settings_layers, user_settings_file
from ckstore.api.repo import Repo, open  # noqa: A004

__all__ = [
    "Checkpoint",
    "Repo",
    "default_author",
    "default_cache",
    "now",
    "open",
    "settings_layers",
    "user_settings_file",
]
