"""Settings: the table of what there is, layers of values with where they come from, and what they amount to.

A layer that is wrong somewhere is still a layer: what is wrong is raised by whoever needs a setting that it may
concern, so that a misspelled line stops no command that can do without. Nothing here reads the environment.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Literal

from ckstore.errors import InvalidInput, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

Value = str | tuple[str, ...]
"""What a setting can be: a text, or a list of texts."""

DEFAULT = "default"
"""The origin of a value that nobody set."""

MODES = ("min", "max")
METRICS = "metrics"
PROJECT_FILE = "pyproject.toml"
_PROJECT_TABLE = ("tool", "ckstore")
_VARIABLE = "CKSTORE_"
_SHOWN = 60


@dataclass(frozen=True)
class Setting:
    """One setting. A name that ends in `.<name>` stands for many, whose last part a person chooses.

    `allowed` are the values it may have, if they are few; `noun` is what messages call one.
    """

    name: str
    kind: Literal["text", "list"]
    default: Value | None
    about: str
    allowed: tuple[str, ...] = ()
    noun: str = "text"


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
    Setting(f"{METRICS}.<name>", "text", None, "which way this metric is better, for `best:<name>`", MODES, "mode"),
    Setting(
        "list.columns",
        "list",
        (),
        "the columns that `ckstore list` shows; its own choice if not set",
        noun="list of texts",
    ),
)

_BY_NAME = {setting.name: setting for setting in SETTINGS}
_TABLES = tuple(dict.fromkeys(setting.name.partition(".")[0] for setting in SETTINGS))


class Scope(IntEnum):
    """Where a layer stands: the most important first."""

    FLAGS = 0
    ENVIRONMENT = 1
    REPOSITORY = 2
    PROJECT = 3
    USER = 4


@dataclass(frozen=True)
class Problem:
    """Something wrong in a layer: it concerns the setting named so, or all below that name; an empty name: all."""

    name: str
    what: str
    hint: str | None = None

    def concerns(self, name: str) -> bool:
        return not self.name or name == self.name or name.startswith(f"{self.name}.")

    def error(self) -> InvalidInput:
        return InvalidInput(self.what, hint=self.hint)


@dataclass(frozen=True)
class Layer:
    """Settings from one place. `origin` names it to people: a file, a variable."""

    scope: Scope
    origin: str
    values: Mapping[str, Value] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class Found:
    """A setting's value, and where that comes from."""

    name: str
    value: Value | None
    origin: str


@dataclass(frozen=True)
class Config:
    """What layers amount to, the most important first; `Config()` is the defaults. Made by `merge`."""

    layers: tuple[Layer, ...] = ()

    def find(self, name: str) -> Found:
        """The value of the most important layer that has one.

        Raises `InvalidInput` for a name that is no setting, or where that layer, or one that is more important, has a
        problem that concerns it.
        """
        setting = setting_named(name)
        for layer in self.layers:
            for problem in layer.problems:
                if problem.concerns(name):
                    raise problem.error()
            if name in layer.values:
                return Found(name, layer.values[name], layer.origin)
        return Found(name, setting.default, DEFAULT)

    def overriding(self, name: str, scope: Scope) -> Layer | None:
        """The layer more important than `scope` that gives `name` its value, if there is one."""
        return next((layer for layer in self.layers if layer.scope < scope and name in layer.values), None)

    @property
    def preset(self) -> str:
        """The name of the preset for saves. Raises `InvalidInput`."""
        return _text(self.find("storage.preset")) or ""

    @property
    def author(self) -> str | None:
        """The author for commits; None where it is not set. Raises `InvalidInput`."""
        return _text(self.find("commit.author"))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns for `list`; empty where they are not set. Raises `InvalidInput`."""
        value = self.find("list.columns").value
        return value if isinstance(value, tuple) else ()

    def metric_mode(self, metric: str) -> str | None:
        """`min` or `max`, whichever is better of a metric; None where it is not set. Raises `InvalidInput`."""
        return _text(self.find(f"{METRICS}.{metric}")) if metric else None


def _text(found: Found) -> str | None:
    return found.value if isinstance(found.value, str) else None


def merge(layers: Iterable[Layer]) -> Config:
    """One Config of layers in any order; of two of one scope the earlier one wins."""
    return Config(tuple(sorted(layers, key=lambda layer: layer.scope)))


def setting_named(name: str) -> Setting:
    """The setting of that name. Raises `InvalidInput`, with a near match."""
    setting = _known(name)
    if setting is None:
        raise InvalidInput(f"{name!r} is no setting", hint=_near(name))
    return setting


def split(name: str) -> tuple[str, str]:
    """A setting's table and its key there: a metric's name may hold dots."""
    table, _, key = name.partition(".")
    return table, key


def parse_value(name: str, text: str) -> Value:
    """The value that a person wrote as `text`; a list is separated by commas. Raises `InvalidInput`."""
    setting = setting_named(name)
    value = _checked(setting, _items(text) if setting.kind == "list" else text)
    if value is None:
        raise InvalidInput(f"{text!r} is no {setting.noun}", hint=_choice(setting))
    return value


def parse(text: str, scope: Scope, origin: str, under: Sequence[str] = ()) -> Layer:
    """The layer in the TOML `text`, or in the table `under` of it. Never raises: what is wrong is its problem."""
    try:
        said: object = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        return broken(scope, origin, f"{origin} is not TOML: {error}", "mend it, or remove it to have the defaults")
    for table in under:
        said = said.get(table, {}) if isinstance(said, dict) else said
    if not isinstance(said, dict):
        where = ".".join(under)
        return broken(scope, origin, f"{origin} sets {where} to {_shown(said)}, which is no table", f"write [{where}]")
    values: dict[str, Value] = {}
    problems: list[Problem] = []
    for table, entries in said.items():
        _take(origin, table, entries, values, problems)
    return Layer(scope, origin, values, tuple(problems))


def broken(scope: Scope, origin: str, what: str, hint: str) -> Layer:
    """A layer of which nothing can be said: it stops whoever needs any setting that no other overrides."""
    return Layer(scope, origin, problems=(Problem("", what, hint),))


def read_layer(path: Path, scope: Scope, under: Sequence[str] = ()) -> Layer | None:
    """The layer in a TOML file; None where there is no such file.

    Outside of a repository one that this user may not read counts as none: `HOME` is often still another user's.
    """
    try:
        text = path.read_text("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, PermissionError) and scope > Scope.REPOSITORY:
            return None
        return broken(scope, str(path), f"{path} cannot be read: {error}", "mend or remove it")
    return parse(text, scope, str(path), under)


def read_project(folder: Path) -> Layer | None:
    """`[tool.ckstore]` of the nearest pyproject.toml in `folder` or above."""
    for place in (folder, *folder.parents):
        layer = read_layer(place / PROJECT_FILE, Scope.PROJECT, _PROJECT_TABLE)
        if layer is not None:
            return layer
    return None


def flags(values: Mapping[str, Value], origin: str) -> Layer:
    """The layer of what a call says itself. Raises `InvalidInput` for what is no setting or no value of it."""
    for name, value in values.items():
        setting = setting_named(name)
        if _checked(setting, value) is None:
            raise InvalidInput(f"{_shown(value)} is no {setting.noun}", hint=_choice(setting))
    return Layer(Scope.FLAGS, origin, dict(values))


def from_environment(environ: Mapping[str, str]) -> tuple[Layer, ...]:
    """A layer for each `CKSTORE_*` variable that is a setting: `CKSTORE_STORAGE_PRESET`, `CKSTORE_LIST_COLUMNS=a,b`.

    `CKSTORE_METRICS=val/loss=min,acc=max` sets metrics. An empty variable says nothing. One that is named like a
    setting and is none is a problem; others are not ours to judge.
    """
    variables = {_variable(setting.name): setting for setting in SETTINGS}
    layers = []
    for name, text in sorted(environ.items()):
        setting = variables.get(name)
        if not text:
            continue
        if setting is None:
            table = name.removeprefix(_VARIABLE).partition("_")[0].lower()
            if table in _TABLES and name.startswith(f"{_VARIABLE}{table.upper()}_"):
                hint = nearest(name, list(variables)) or f"known are {', '.join(variables)}"
                layers.append(_wrong(name, table, f"the variable {name} is no setting", hint))
        elif setting.name.startswith(METRICS):
            layers.append(_metrics_variable(name, text))
        else:
            layers.append(_plain_variable(name, setting, text))
    return tuple(layers)


def initial(preset: str) -> str:
    """The TOML of a new repository's settings."""
    return f'[storage]\npreset = "{preset}"\n'


def _variable(setting: str) -> str:
    return _VARIABLE + setting.removesuffix(".<name>").upper().replace(".", "_")


def _metrics_variable(variable: str, text: str) -> Layer:
    values: dict[str, Value] = {}
    for item in _items(text):
        metric, mode = (part.strip() for part in item.rpartition("=")[::2])
        if not metric or mode not in MODES or not _is_text(metric):
            what = f"{variable} is {_shown(text)}, which is no list of metrics and modes"
            return _wrong(variable, METRICS, what, f"write {variable}=val/loss=min,acc=max")
        values[f"{METRICS}.{metric}"] = mode
    return Layer(Scope.ENVIRONMENT, variable, values)


def _plain_variable(variable: str, setting: Setting, text: str) -> Layer:
    value = _checked(setting, _items(text) if setting.kind == "list" else text)
    if value is None:
        what = f"{variable} is {_shown(text)}, which is no {setting.noun}"
        return _wrong(variable, setting.name, what, _choice(setting))
    return Layer(Scope.ENVIRONMENT, variable, {setting.name: value})


def _wrong(variable: str, name: str, what: str, hint: str | None) -> Layer:
    return Layer(Scope.ENVIRONMENT, variable, problems=(Problem(name, what, hint),))


def _take(origin: str, table: str, entries: object, values: dict[str, Value], problems: list[Problem]) -> None:
    """Sort the entries of one table into values and problems."""
    if table not in _TABLES:
        names = [f"{table}.{key}" for key in entries] if isinstance(entries, dict) and entries else [table]
        problems += [Problem("", f"{origin} has the unknown setting {name}", _near(name)) for name in names]
        return
    if not isinstance(entries, dict):
        what = f"{origin} sets {table} to {_shown(entries)}, which is no table"
        problems.append(Problem(table, what, f"write [{table}]"))
        return
    for key, said in entries.items():
        name = f"{table}.{key}"
        setting = _known(name)
        if setting is None:
            problems.append(Problem(table, f"{origin} has the unknown setting {name}", _near(name)))
            continue
        value = _checked(setting, said)
        if value is None:
            what = f"{origin} sets {name} to {_shown(said)}, which is no {setting.noun}"
            problems.append(Problem(name, what, _quoting(key, said) or _choice(setting)))
        else:
            values[name] = value


def _known(name: str) -> Setting | None:
    table, key = split(name)
    if table == METRICS:
        return _BY_NAME[f"{METRICS}.<name>"] if key and _is_text(key) else None
    return _BY_NAME.get(name)


def _checked(setting: Setting, said: object) -> Value | None:
    """`said` as a value of the setting; None where it is none."""
    if setting.kind == "list":
        good = isinstance(said, (list, tuple)) and all(_is_text(item) for item in said)
        return tuple(said) if good and isinstance(said, (list, tuple)) else None
    if not isinstance(said, str) or not _is_text(said) or (setting.allowed and said not in setting.allowed):
        return None
    return said


def _is_text(said: object) -> bool:
    """Whether it is a text that can be stored: one without lone surrogates."""
    return isinstance(said, str) and said == said.encode("utf-8", "replace").decode()


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _shown(said: object) -> str:
    text = repr(said)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _choice(setting: Setting) -> str:
    if setting.allowed:
        return f"use one of {', '.join(setting.allowed)}"
    return 'write ["step", "val/loss"]' if setting.kind == "list" else "write a text"


def _quoting(key: str, said: object) -> str | None:
    """What to do about a metric whose name was cut at its dots."""
    if isinstance(said, dict) and said:
        return f'quote a name that has dots: "{key}.{next(iter(said))}" = "min"'
    return None


def _near(name: str) -> str:
    known = [setting.name for setting in SETTINGS]
    return nearest(name, known) or f"known are {', '.join(known)}"
