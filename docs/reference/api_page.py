"""The public names of the package, with their signatures and docstrings, and what the methods return."""

from __future__ import annotations

import dataclasses
import inspect
import json
import typing
from importlib import import_module
from typing import TYPE_CHECKING, Any

from annotations import hints

import ckstore
from ckstore.api import repo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_FIRST = ("open", "Repo", "Checkpoint")
_WIDTH = 100


def api_page() -> str:
    """The page."""
    return "\n".join([*_public(), *_results(), *_errors()]) + "\n"


def _public() -> Iterator[str]:
    yield from ("# Python API", "", "What `import ckstore` offers. A name is loaded when it is first used.")
    names = [*_FIRST, *(name for name in ckstore.__all__ if name not in (*_FIRST, "__version__"))]
    for name in names:
        value = getattr(ckstore, name)
        if not isinstance(value, type):
            yield from ("", f"## `{name}`", "", *_function(f"ckstore.{name}", value))
        elif dataclasses.is_dataclass(value):
            yield from ("", f"## `{name}`", "", *_value(value))
        elif not issubclass(value, (ckstore.CkstoreError, ckstore.CkstoreWarning)):
            yield from ("", f"## `{name}`", "", inspect.getdoc(value) or "", *_members(value))


def _members(kind: type) -> Iterator[str]:
    for name, member in _own(kind).items():
        if name.startswith("_") and name != "__getitem__":
            continue
        if isinstance(member, property):
            yield from ("", f"### `{kind.__name__}.{name}`", "", "```py", _property(name, member), "```", "")
            yield inspect.getdoc(member) or ""
        elif inspect.isfunction(member):
            title = f"{kind.__name__}[...]" if name == "__getitem__" else f"{kind.__name__}.{name}"
            yield from ("", f"### `{title}`", "", *_function(f"{kind.__name__.lower()}.{name}", member))


def _own(kind: type) -> dict[str, object]:
    """What a class and the parts that it is made of define."""
    parts = [part for part in kind.__mro__ if part.__module__.startswith("ckstore.")]
    return {name: member for part in reversed(parts[1:]) for name, member in vars(part).items()} | vars(kind)


def _function(name: str, function: Callable[..., object]) -> Iterator[str]:
    """A signature, a parameter a line where it is long, and the docstring."""
    signature = inspect.signature(function)
    parts: list[str] = []
    for one in signature.parameters.values():
        if one.kind is one.KEYWORD_ONLY and "*" not in parts:
            parts.append("*")
        if one.name != "self":
            default = "" if one.default is one.empty else f" = {_literal(one.default)}"
            parts.append(f"{one.name}: {_annotation(one.annotation)}{default}")
    result = _annotation(signature.return_annotation)
    called = f"{name}({', '.join(parts)}) -> {result}"
    if name.endswith(".__getitem__"):
        called = f"{name.partition('.')[0]}[{', '.join(parts)}] -> {result}"
    if len(called) > _WIDTH:
        called = "\n".join([f"{name}(", *(f"    {part}," for part in parts), f") -> {result}"])
    yield from ("```py", called, "```", "", inspect.getdoc(function) or "")


def _property(name: str, member: property) -> str:
    assert member.fget is not None
    return f"{name}: {_annotation(inspect.signature(member.fget).return_annotation)}"


def _annotation(said: object) -> str:
    return str(said).replace("Path_", str(repo.Path_))


def _literal(default: object) -> str:
    return json.dumps(default) if isinstance(default, str) else repr(default)


def _value(kind: Any) -> Iterator[str]:
    """A dataclass: its docstring, fields and properties."""
    yield from (inspect.getdoc(kind) or "", "", "```py")
    yield from (f"{field.name}: {field.type}" for field in dataclasses.fields(kind))
    for name, member in inspect.getmembers(kind, lambda member: isinstance(member, property)):
        yield f"{_property(name, member)}  # computed"
    yield "```"


def _results() -> Iterator[str]:
    """The dataclasses that methods return, and those in their fields, by name."""
    found: dict[str, type] = {}
    methods = [value for name, value in _own(ckstore.Repo).items() if inspect.isfunction(value) and name[0] != "_"]
    pending = [hints(method)["return"] for method in methods]
    while pending:
        one = pending.pop()
        pending += typing.get_args(one)
        if isinstance(one, type) and dataclasses.is_dataclass(one) and one.__name__ not in found:
            found[one.__name__] = one
            pending += hints(one).values()
    yield from ("", "## What methods return", "", "Frozen values, beside those above.")
    for name in sorted(found.keys() - set(ckstore.__all__)):
        yield from ("", f"### `{name}`", "", *_value(found[name]))


def _errors() -> Iterator[str]:
    yield from ("", "## Errors", "", "```text", inspect.getdoc(import_module("ckstore.errors")) or "", "```")
