"""The table of settings: what each is called, what it may be, and what is said of what it may not be."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from ckstore.errors import InvalidInput, nearest
from ckstore.units import SPAN

Value = str | tuple[str, ...]
"""What a setting can be: a text, or a list of texts."""

MODES = ("min", "max")
METRICS = "metrics"
KEEP = "keep"
REMOTES = "remotes"
JOBS = "jobs"
LIMIT_RATE = "limit_rate"
TIMEOUT = "timeout"
_SHOWN = 60
_SECRET = re.compile(r"(?<=://)[^/@]*@")
_SIZE = r"\d{1,20}(?:\.\d{1,9})? ?(?:[kKMGTP]i?)?B?"
_POLICY = r"[^\S\n]*[^\s,].*"


@dataclass(frozen=True)
class Setting:
    """One setting. A name that ends in `.<...>` stands for many, whose last part a person chooses.

    `allowed` are the values it may have, if they are few, and `shape` is a pattern for them; `noun` is what messages
    call one, `example` what they say to write, and `instance` what that last part may be.
    """

    name: str
    kind: Literal["text", "list"]
    default: Value | None
    about: str
    allowed: tuple[str, ...] = ()
    noun: str = "text"
    example: str = ""
    shape: str = ""
    instance: str = ""


SETTINGS = (
    Setting(
        "storage.preset",
        "text",
        "balanced",
        "how a save trades bytes for time, unless it says so itself",
        ("balanced", "archive", "fast"),
        "preset",
    ),
    Setting("commit.author", "text", None, "the author of commits; the user's name if not set"),
    Setting(
        f"{METRICS}.<name>",
        "text",
        None,
        "which way this metric is better, for `best:<name>`",
        MODES,
        "mode",
        "min",
        instance="val/loss",
    ),
    Setting(
        "list.columns",
        "list",
        (),
        "the columns that `ckstore list` shows; its own choice if not set",
        noun="list of texts",
        example='["step", "val/loss"]',
    ),
    Setting(
        "retention.keep",
        "text",
        None,
        "the policy of all branches: which commits they keep; every one if not set",
        noun="policy",
        example="last=3 best=2:val/loss:min",
        shape=_POLICY,
    ),
    Setting(
        f"{KEEP}.<branch>",
        "text",
        None,
        "the policy of this branch",
        noun="policy",
        example="last=3 best=2:val/loss:min",
        shape=_POLICY,
        instance="main",
    ),
    Setting(
        "retention.grace",
        "text",
        "7d",
        "how long what no policy keeps stays on the disk",
        noun="span of time",
        example="7d, 36h or 30m (s m h d w)",
        shape=SPAN,
    ),
    Setting(
        f"{REMOTES}.<name>",
        "text",
        None,
        "the URL of this remote; credentials come from the cloud's own chain",
        noun="URL without a password",
        example="s3://bucket/prefix, or a path",
        shape=r"(?!.*://[^/]*@)\S.*",
        instance="origin",
    ),
    Setting(
        f"{JOBS}.<remote>",
        "text",
        None,
        "how many transfers to or from this remote run at once; 4 if not set",
        noun="number of transfers",
        example="8",
        shape=r"[1-9]\d{0,2}",
        instance="origin",
    ),
    Setting(
        f"{LIMIT_RATE}.<remote>",
        "text",
        None,
        "how many bytes a second go to and from this remote at most",
        noun="rate",
        example="50M, or 500k: bytes a second",
        shape=_SIZE,
        instance="origin",
    ),
    Setting(
        f"{TIMEOUT}.<remote>",
        "text",
        None,
        "how long a transfer with this remote may stand still; 60s if not set",
        noun="span of time",
        example="30s, or 2m",
        shape=SPAN,
        instance="origin",
    ),
)

_BY_NAME = {setting.name: setting for setting in SETTINGS}
_MANY = {setting.name.partition(".")[0]: setting for setting in SETTINGS if setting.instance}
TABLES = tuple(dict.fromkeys(setting.name.partition(".")[0] for setting in SETTINGS))


def setting_named(name: str) -> Setting:
    """The setting of that name. Raises `InvalidInput`, with a near match."""
    setting = known(name)
    if setting is None:
        raise InvalidInput(f"{name!r} is no setting", hint=near_names(name))
    return setting


def split(name: str) -> tuple[str, str]:
    """A setting's table and its key there: a metric's name may hold dots."""
    table, _, key = name.partition(".")
    return table, key


def parse_value(name: str, text: str) -> Value:
    """The value that a person wrote as `text`; a list is separated by commas. Raises `InvalidInput`."""
    setting = setting_named(name)
    value = checked(setting, items(text) if setting.kind == "list" else text)
    if value is None:
        raise InvalidInput(f"{shown(text)} is no {setting.noun}", hint=choice(setting))
    return value


def known(name: str) -> Setting | None:
    """The setting of that name, or None."""
    table, key = split(name)
    many = _MANY.get(table)
    return many if many is not None and key and is_text(key) else _BY_NAME.get(name)


def checked(setting: Setting, said: object) -> Value | None:
    """`said` as a value of the setting; None where it is none."""
    if setting.kind == "list":
        good = isinstance(said, (list, tuple)) and all(is_text(item) for item in said)
        return tuple(said) if good and isinstance(said, (list, tuple)) else None
    if not isinstance(said, str) or not is_text(said) or (setting.allowed and said not in setting.allowed):
        return None
    return said if not setting.shape or re.fullmatch(setting.shape, said, re.ASCII) else None


def is_text(said: object) -> bool:
    """Whether it is a text that can be stored: one without lone surrogates."""
    return isinstance(said, str) and said == said.encode("utf-8", "replace").decode()


def items(text: str) -> list[str]:
    """The items of a list that is separated by commas."""
    return [item.strip() for item in text.split(",") if item.strip()]


def shown(said: object) -> str:
    """A value in a message, without the password of a URL, cut where it is long."""
    text = _SECRET.sub("...@", repr(said))
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def choice(setting: Setting) -> str:
    """What to say of a value that is none."""
    if setting.allowed:
        return f"use one of {', '.join(setting.allowed)}"
    return f"write {setting.example}" if setting.example else "write a text"


def near_names(name: str) -> str:
    """What to say of a name that is none."""
    names = [setting.name for setting in SETTINGS]
    near = [one for one in names if split(one)[0] == split(name)[0]]
    return nearest(name, near) or nearest(name, names) or f"known are {', '.join(names)}"
