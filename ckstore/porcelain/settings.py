"""config: what the settings are and where they come from; set and unset them in a file, which keeps its comments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckstore.config import DEFAULT
from ckstore.errors import InvalidInput
from ckstore.setting import setting_named
from ckstore.settings_file import SettingChange, set_setting, unset_setting

if TYPE_CHECKING:
    from ckstore.config import Config
    from ckstore.setting import Value

__all__ = [
    "SettingChange",
    "SettingInfo",
    "SettingsResult",
    "get_setting",
    "list_settings",
    "set_setting",
    "unset_setting",
]


@dataclass(frozen=True)
class SettingInfo:
    """A setting as it counts now.

    `origin` names the file or variable that `value` comes from, or is `default`. Where a command that needs the setting
    would be refused, `problem` says why, and `value` is None. `allowed` are its possible values, if they are few.
    """

    name: str
    value: Value | None
    origin: str
    about: str
    allowed: tuple[str, ...]
    problem: str | None = None


@dataclass(frozen=True)
class SettingsResult:
    """All settings, and everything that is wrong in any of their places."""

    settings: tuple[SettingInfo, ...]
    problems: tuple[str, ...]


def list_settings(config: Config) -> SettingsResult:
    """Every setting with its value. Never raises for what is wrong in a file: it is in the result."""
    problems = [problem.what for layer in config.layers for problem in layer.problems]
    return SettingsResult(tuple(_info(config, name) for name in config.names()), tuple(problems))


def get_setting(config: Config, name: str) -> SettingInfo:
    """One setting. Raises `InvalidInput` for a name that is none, or where what is wrong in a file concerns it."""
    found = config.find(name)
    setting = setting_named(name)
    return SettingInfo(name, found.value, found.origin, setting.about, setting.allowed)


def _info(config: Config, name: str) -> SettingInfo:
    setting = setting_named(name)
    try:
        found = config.find(name)
    except InvalidInput as error:
        return SettingInfo(name, None, DEFAULT, setting.about, setting.allowed, error.what)
    return SettingInfo(name, found.value, found.origin, setting.about, setting.allowed)
