"""The files that settings are written in: changed where a person says so, all else in them left as it is."""

from __future__ import annotations

import copy
import os
import stat
import tomllib
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckstore import durable
from ckstore.config import Scope, parse
from ckstore.errors import InvalidInput, NotFound, nearest
from ckstore.lock import FileLock
from ckstore.setting import parse_value, split

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckstore.config import Config, Layer
    from ckstore.repository import Repository
    from ckstore.setting import Value

_Change = Callable[[MutableMapping[str, Any], Path, object], None]
"""Changes a document, which `path` names in errors; a table that it lacks begins as the given empty one."""


@dataclass(frozen=True)
class SettingChange:
    """What a file said of a setting and says now: None for nothing, or, before, for what was no value of it.

    `overridden_by` names a more important place whose value counts instead of the file's.
    """

    name: str
    file: Path
    before: Value | None
    after: Value | None
    overridden_by: str | None


def set_setting(config: Config, place: Repository | Path, name: str, text: str) -> SettingChange:
    """Write a setting into a repository's file, or the user's at `place`, and leave all else in it as it is.

    `text` is the value as a person writes it, a list separated by commas. It counts for whoever opens the repository
    from then on; `config` is only asked what overrides it. Raises `InvalidInput` for a name or value that is none, or a
    file that cannot be edited; `SaveFailed` where nothing may be written.
    """
    value = parse_value(name, text)
    return _changed(config, place, name, _put(name, value), value)


def unset_setting(config: Config, place: Repository | Path, name: str) -> SettingChange:
    """Take a setting out of a repository's file, or the user's at `place`: also an unknown one, or a whole table.

    Raises `NotFound` where the file does not say it, `InvalidInput` for one that cannot be edited, `SaveFailed`.
    """
    table, key = split(name)

    def drop(document: MutableMapping[str, Any], path: Path, _: object) -> None:
        entries = document.get(table) if key else document
        if not isinstance(entries, MutableMapping) or (key or table) not in entries:
            hint = nearest(name, list(_names(document))) or "`ckstore config list` shows what is set, and where"
            raise NotFound(f"{path} does not set {name}", hint=hint)
        del entries[key or table]

    return _changed(config, place, name, drop, None)


def change_settings(repository: Repository, texts: Mapping[str, str | None]) -> None:
    """Write several settings into a repository's file in one go; None takes one out, if it is there.

    Raises as `set_setting` does; nothing is written then.
    """
    changes: list[_Change] = []
    for name, text in texts.items():
        changes.append(_take_out(name) if text is None else _put(name, parse_value(name, text)))

    def change(document: MutableMapping[str, Any], path: Path, empty: object) -> None:
        for one in changes:
            one(document, path, copy.copy(empty))

    with repository.store.locked():
        _edit(Path(os.path.realpath(repository.store.layout.config)), Scope.REPOSITORY, change)


def _put(name: str, value: Value) -> _Change:
    table, key = split(name)

    def put(document: MutableMapping[str, Any], path: Path, empty: object) -> None:
        entries = document.setdefault(table, empty)
        if not isinstance(entries, MutableMapping):
            raise InvalidInput(f"{path} says that {table} is no table", hint=f"`ckstore config unset {table}` first")
        entries[key] = list(value) if isinstance(value, tuple) else value

    return put


def _take_out(name: str) -> _Change:
    table, key = split(name)

    def drop(document: MutableMapping[str, Any], _: Path, __: object) -> None:
        entries = document.get(table)
        if isinstance(entries, MutableMapping):
            entries.pop(key, None)

    return drop


def _changed(
    config: Config, place: Repository | Path, name: str, change: _Change, value: Value | None
) -> SettingChange:
    if isinstance(place, Path):
        scope, path = Scope.USER, place
        durable.make_folder(path.parent)
        lock = FileLock(path.with_name(f".{path.name}.lock")).held()
    else:
        scope, path = Scope.REPOSITORY, place.store.layout.config
        lock = place.store.locked()
    with lock:
        before = _edit(Path(os.path.realpath(path)), scope, change).values.get(name)
    overriding = config.overriding(name, scope)
    return SettingChange(name, path, before, value, None if overriding is None else overriding.origin)


def _edit(path: Path, scope: Scope, change: _Change) -> Layer:
    """Make `change` to the TOML file `path`, and to nothing else in it; what it said before."""
    import tomlkit  # only who edits waits for it

    text, mode = _read(path)
    before = parse(text, scope, str(path))
    try:
        wanted = tomllib.loads(text)
        document = tomlkit.parse(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{path} is not TOML: {error}", hint="mend it, or remove it to have the defaults") from None
    change(wanted, path, {})
    change(document, path, tomlkit.table())
    edited = tomlkit.dumps(document)
    if _filled(tomllib.loads(edited)) != _filled(wanted):
        raise InvalidInput(f"{path} is written in a way that cannot be edited here", hint="edit it by hand")
    durable.put(path, edited.encode())
    if mode is not None:
        durable.stamp(path, mode, path.stat().st_mtime_ns)
    return before


def _read(path: Path) -> tuple[str, int | None]:
    """The text of a file and its permissions; nothing where there is none. Keeps the ends of lines as they are."""
    try:
        return path.read_bytes().decode(), stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return "", None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read: {error}", hint="mend or remove it") from error


def _filled(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document without its empty tables, which say nothing."""
    return {table: entries for table, entries in document.items() if entries != {}}


def _names(document: Mapping[str, Any]) -> Iterator[str]:
    for table, entries in document.items():
        yield from (f"{table}.{key}" for key in entries) if isinstance(entries, Mapping) else (table,)
