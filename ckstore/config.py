"""Settings: layers of values with where they come from, and what they amount to.

A layer that is wrong somewhere is still a layer: what is wrong is raised by whoever needs a setting that it may
concern, so that a misspelled line stops no command that can do without. Nothing here reads the environment.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

from ckstore.errors import InvalidInput, nearest
from ckstore.setting import (
    KEEP,
    METRICS,
    REMOTES,
    SETTINGS,
    TABLES,
    checked,
    choice,
    items,
    known,
    near_names,
    setting_named,
    shown,
    split,
)
from ckstore.units import parse_span

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from ckstore.setting import Setting, Value

DEFAULT = "default"
"""The origin of a value that nobody set."""

PROJECT_FILE = "pyproject.toml"
_PROJECT_TABLE = ("tool", "ckstore")
_VARIABLE = "CKSTORE_"


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

    def policy_text(self, branch: str | None = None) -> str | None:
        """The retention policy of a branch, its own or else that of all branches; of None the latter.

        Raises `InvalidInput`.
        """
        own = _text(self.find(f"{KEEP}.{branch}")) if branch else None
        return own if own is not None else _text(self.find("retention.keep"))

    def policy_texts(self, branches: Iterable[str]) -> dict[str, str]:
        """The policies of those branches that have one of their own. Raises `InvalidInput`."""
        found = {branch: _text(self.find(f"{KEEP}.{branch}")) for branch in branches}
        return {branch: text for branch, text in found.items() if text is not None}

    @property
    def grace_ns(self) -> int:
        """How long what no policy keeps stays on the disk, in nanoseconds. Raises `InvalidInput`."""
        return parse_span(_text(self.find("retention.grace")) or "") or 0

    @property
    def remotes(self) -> dict[str, str]:
        """The URLs of remotes by name, in order. Raises `InvalidInput` where one of them is wrong."""
        prefix = f"{REMOTES}."
        for layer in self.layers:
            for problem in layer.problems:
                if problem.name == REMOTES or problem.name.startswith(prefix):
                    raise problem.error()
        named = {name for layer in self.layers for name in layer.values if name.startswith(prefix)}
        return {name.removeprefix(prefix): _text(self.find(name)) or "" for name in sorted(named)}

    def text(self, name: str) -> str | None:
        """The text of any setting that is one; None where it is not set. Raises `InvalidInput`."""
        return _text(self.find(name))

    def names(self) -> list[str]:
        """Every setting; one that stands for many by those of them that some layer sets, if there are any."""
        found: list[str] = []
        for setting in SETTINGS:
            some = {name for layer in self.layers for name in layer.values if known(name) is setting}
            found += sorted(some) if setting.instance and some else [setting.name]
        return found


def _text(found: Found) -> str | None:
    return found.value if isinstance(found.value, str) else None


def merge(layers: Iterable[Layer]) -> Config:
    """One Config of layers in any order; of two of one scope the earlier one wins."""
    return Config(tuple(sorted(layers, key=lambda layer: layer.scope)))


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
        return broken(scope, origin, f"{origin} sets {where} to {shown(said)}, which is no table", f"write [{where}]")
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
        if checked(setting, value) is None:
            raise InvalidInput(f"{shown(value)} is no {setting.noun}", hint=choice(setting))
    return Layer(Scope.FLAGS, origin, dict(values))


def from_environment(environ: Mapping[str, str]) -> tuple[Layer, ...]:
    """A layer for each `CKSTORE_*` variable that is a setting: `CKSTORE_STORAGE_PRESET`, `CKSTORE_LIST_COLUMNS=a,b`.

    One that stands for many takes a list: `CKSTORE_METRICS=val/loss=min,acc=max`. An empty variable says nothing. One
    that is named like a setting and is none is a problem; others are not ours to judge.
    """
    variables = {_variable(setting.name): setting for setting in SETTINGS}
    layers = []
    for name, text in sorted(environ.items()):
        setting = variables.get(name)
        if not text:
            continue
        if setting is None:
            table = name.removeprefix(_VARIABLE).partition("_")[0].lower()
            if table in TABLES and name.startswith(f"{_VARIABLE}{table.upper()}_"):
                hint = nearest(name, list(variables)) or f"known are {', '.join(variables)}"
                layers.append(_wrong(name, table, f"the variable {name} is no setting", hint))
        elif setting.instance:
            layers.append(_many_variable(name, setting, text))
        else:
            layers.append(_plain_variable(name, setting, text))
    return tuple(layers)


def initial(preset: str) -> str:
    """The TOML of a new repository's settings."""
    return f'[storage]\npreset = "{preset}"\n'


def _variable(setting: str) -> str:
    return _VARIABLE + setting.partition(".<")[0].upper().replace(".", "_")


def _many_variable(variable: str, setting: Setting, text: str) -> Layer:
    table, _ = split(setting.name)
    values: dict[str, Value] = {}
    for item in items(text):
        # a value from a few has no `=`, a name may
        key, said = (part.strip() for part in (item.rpartition if setting.allowed else item.partition)("=")[::2])
        value = checked(setting, said)
        if value is None or known(f"{table}.{key}") is None:
            what = f"{variable} is {shown(text)}, which is no list of name={setting.noun}"
            return _wrong(variable, table, what, f"write {variable}={setting.instance}={setting.example}")
        values[f"{table}.{key}"] = value
    return Layer(Scope.ENVIRONMENT, variable, values)


def _plain_variable(variable: str, setting: Setting, text: str) -> Layer:
    value = checked(setting, items(text) if setting.kind == "list" else text)
    if value is None:
        what = f"{variable} is {shown(text)}, which is no {setting.noun}"
        return _wrong(variable, setting.name, what, choice(setting))
    return Layer(Scope.ENVIRONMENT, variable, {setting.name: value})


def _wrong(variable: str, name: str, what: str, hint: str | None) -> Layer:
    return Layer(Scope.ENVIRONMENT, variable, problems=(Problem(name, what, hint),))


def _take(origin: str, table: str, entries: object, values: dict[str, Value], problems: list[Problem]) -> None:
    """Sort the entries of one table into values and problems."""
    if table not in TABLES:
        names = [f"{table}.{key}" for key in entries] if isinstance(entries, dict) and entries else [table]
        problems += [Problem("", f"{origin} has the unknown setting {name}", near_names(name)) for name in names]
        return
    if not isinstance(entries, dict):
        what = f"{origin} sets {table} to {shown(entries)}, which is no table"
        problems.append(Problem(table, what, f"write [{table}]"))
        return
    for key, said in entries.items():
        name = f"{table}.{key}"
        setting = known(name)
        if setting is None:
            problems.append(Problem(table, f"{origin} has the unknown setting {name}", near_names(name)))
            continue
        value = checked(setting, said)
        if value is None:
            what = f"{origin} sets {name} to {shown(said)}, which is no {setting.noun}"
            problems.append(Problem(name, what, _quoting(key, said) or choice(setting)))
        else:
            values[name] = value


def _quoting(key: str, said: object) -> str | None:
    """What to do about a name that was cut at its dots."""
    if isinstance(said, dict) and said:
        rest, value = next(iter(said.items()))
        return f'quote a name that has dots: "{key}.{rest}" = "{value if isinstance(value, str) else "..."}"'
    return None
