"""What is taken from the environment: where caches and settings lie, who the user is, what time it is."""

from __future__ import annotations

import getpass
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ckstore.config import Config, Scope, from_environment, read_layer
from ckstore.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckstore.config import Layer


def settings_layers(environ: Mapping[str, str] = os.environ) -> tuple[Layer, ...]:
    """Settings from outside of any repository: `CKSTORE_*` variables and the user's file. For `open_repository`.

    Never raises: what is wrong in them is raised where it is needed.
    """
    layers = list(from_environment(environ))
    with suppress(InvalidInput):
        layer = read_layer(user_settings_file(environ), Scope.USER)
        layers += [] if layer is None else [layer]
    return tuple(layers)


def user_settings_file(environ: Mapping[str, str] = os.environ) -> Path:
    """`$XDG_CONFIG_HOME/ckstore/config.toml`, or under `~/.config`; it need not be there.

    Raises `InvalidInput` for a user without a home.
    """
    base = environ.get("XDG_CONFIG_HOME")
    try:
        return (Path(base) if base else Path.home() / ".config") / "ckstore" / "config.toml"
    except RuntimeError:
        raise InvalidInput("this user has no home folder", hint="set XDG_CONFIG_HOME to a folder") from None


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/ckstore`, or `~/.cache/ckstore`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ckstore"


def default_author(config: Config | None = None) -> str:
    """The author that settings name, or else the user this process runs as, or nothing where that has no name.

    Raises `InvalidInput` where the setting is wrong.
    """
    named = None if config is None else config.author
    if named is not None:
        return named
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return ""


def now() -> tuple[int, int]:
    """The time in nanoseconds since 1970 UTC, and this place's distance from UTC in minutes.

    `CKSTORE_NOW`, seconds since 1970 UTC, stands in for the clock, so that what a script does can be done again alike.
    Raises `InvalidInput` where it is no number.
    """
    said = os.environ.get("CKSTORE_NOW")
    if said is None:
        return time.time_ns(), time.localtime().tm_gmtoff // 60
    try:
        time_ns = round(float(said) * 1e9)
        if not -(1 << 63) <= time_ns < 1 << 63:
            raise OverflowError
        return time_ns, 0
    except (ValueError, OverflowError):
        raise InvalidInput(f"CKSTORE_NOW is {said!r}, which is no time", hint="give seconds since 1970 UTC") from None
