"""A repository's settings: TOML in, a frozen value out. Nothing here reads the environment."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass

from ckstore.errors import InvalidInput


@dataclass(frozen=True)
class Config:
    """`preset` names how chunks are stored unless a commit says otherwise."""

    preset: str = "balanced"


def parse(text: str, source: str) -> Config:
    """The settings in `text`; `source` names it in errors. Raises `InvalidInput` for what is not known."""
    try:
        said = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            f"{source} is not TOML: {error}", hint="mend it, or remove it to have the defaults"
        ) from None
    storage = said.pop("storage", {})
    if not isinstance(storage, dict):
        raise InvalidInput(f"{source} sets storage to {storage!r}, which is no table", hint="write [storage]")
    unknown = ", ".join([*said, *(f"storage.{name}" for name in storage if name != "preset")])
    if unknown:
        raise InvalidInput(f"{source} has the unknown setting {unknown}", hint="known is storage.preset")
    preset = storage.get("preset", Config.preset)
    if not isinstance(preset, str):
        raise InvalidInput(f"{source} sets storage.preset to {preset!r}, which is no name")
    return Config(preset)


def render(config: Config) -> str:
    """The TOML that `parse` reads as `config`."""
    return f'[storage]\npreset = "{config.preset}"\n'
