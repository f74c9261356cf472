"""What `--json` prints, as JSON Schema (2020-12), from the types of the commands' results."""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import inspect
import json
import types
import typing
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from annotations import hints

from ckstore.cli.context import SCHEMA, jsonable

if TYPE_CHECKING:
    from collections.abc import Iterable

Result = str | list[str]
"""A type at `module:name`, or a list of one."""

_VERBS = "ckstore.porcelain"
_SYNC = "ckstore.sync"
_COMMITS: Result = ["ckstore.graph.history:CommitInfo"]
_MOVED = "ckstore.checkpoint.refs:RefsMoved"

RESULTS: dict[str, tuple[Result, ...]] = {
    "init": (f"{_VERBS}.init:InitResult",),
    "commit": ("ckstore.checkpoint.store:CommitResult",),
    "import": (f"{_VERBS}.import_files:ImportResult", f"{_VERBS}.import_files:ImportPlan"),
    "scan": (f"{_VERBS}.scan:ScanResult",),
    "status": (f"{_VERBS}.status:StatusResult",),
    "log": (_COMMITS,),
    "list": (_COMMITS,),
    "show": (f"{_VERBS}.show:ShowResult",),
    "diff": (f"{_VERBS}.diff:DiffResult",),
    "diverge": (f"{_VERBS}.diverge:DivergeResult",),
    "du": (f"{_VERBS}.du:DuResult",),
    "checkout": (f"{_VERBS}.checkout:CheckoutResult", f"{_VERBS}.switch:SwitchResult"),
    "export": (f"{_VERBS}.export:ExportResult",),
    "branch": ([f"{_VERBS}.branch:BranchInfo"], _MOVED),
    "tag": (["ckstore.checkpoint.refs:RefInfo"], _MOVED),
    "reflog": (f"{_VERBS}.reflog:ReflogResult",),
    "undo": (f"{_VERBS}.undo:UndoResult",),
    "remote add": (f"{_VERBS}.remote:RemoteAdded",),
    "remote list": ([f"{_SYNC}.remotes:RemoteInfo"],),
    "remote show": (f"{_VERBS}.remote:RemoteShown",),
    "remote test": (f"{_VERBS}.remote:RemoteReport",),
    "remote remove": (f"{_SYNC}.remotes:RemoteInfo",),
    "remote gc": (f"{_SYNC}.prune:Pruned",),
    "push": (f"{_VERBS}.push:PushResult",),
    "pull": (f"{_VERBS}.pull:PullResult",),
    "fetch": (f"{_SYNC}.fetching:FetchResult",),
    "clone": (f"{_VERBS}.clone:CloneResult",),
    "gc": (f"{_VERBS}.gc:GcResult", "ckstore.checkpoint.gc_plan:GcPlan"),
    "verify": (f"{_VERBS}.verify:VerifyResult", f"{_VERBS}.verify_remote:VerifyRemoteResult"),
    "repair": (
        f"{_VERBS}.repair:RepairResult",
        f"{_VERBS}.repair_remote:RepairRemoteResult",
        "ckstore.storage.anew:JournalAnew",
    ),
    "validate": (f"{_VERBS}.validate:ValidateResult",),
    "pin": (["ckstore.checkpoint.refs:RefInfo"], _MOVED),
    "unpin": (_MOVED,),
    "migrate": (f"{_VERBS}.migrate:MigrateResult",),
    "config list": (f"{_VERBS}.settings:SettingsResult",),
    "config get": (f"{_VERBS}.settings:SettingInfo",),
    "config set": ("ckstore.settings_file:SettingChange",),
    "config unset": ("ckstore.settings_file:SettingChange",),
    "doctor": (f"{_VERBS}.doctor:DoctorResult",),
    "completion": (),
    "demo": ("ckstore.cli.demo:DemoResult",),
}
"""What each command's `--json` holds as `result`: one of these. None: it prints no JSON."""

_SIMPLE = {str: "string", Path: "string", int: "integer", bool: "boolean", type(None): "null"}


def json_schema() -> str:
    """One document for the output of every command, and for errors."""
    results = _Results()
    version = {"schema": {"const": SCHEMA}}
    documents = []
    for command, choices in RESULTS.items():
        if choices:
            name = {"command": {"const": command}}
            documents.append(_object({**version, **name, "result": results.any_of(map(_type, choices))}))
    text, maybe = {"type": "string"}, {"type": ["string", "null"]}
    error = {"code": text, "what": text, "why": maybe, "hint": maybe, "retryable": {"type": "boolean"},
             "exit_code": {"type": "integer"}}  # fmt: skip
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"What ckstore prints with --json, version {SCHEMA}",
        "oneOf": [*documents, _object({**version, "error": _object(error)})],
        "$defs": dict(sorted(results.defs.items())),
    }
    return json.dumps(document, indent=2) + "\n"


def _type(result: Result) -> Any:
    if isinstance(result, list):
        return types.GenericAlias(list, (_type(result[0]),))
    module, _, name = result.partition(":")
    return getattr(import_module(module), name)


class _Results:
    """Schemas of values as `jsonable` writes them; of each dataclass once, in `defs`."""

    def __init__(self) -> None:
        self.defs: dict[str, dict[str, Any]] = {}
        self._kinds: dict[str, type] = {}

    def any_of(self, kinds: Iterable[Any]) -> dict[str, Any]:
        """The schema of a value that has one of some types."""
        schemas = [self.of(kind) for kind in kinds]
        if len(schemas) == 1:
            return schemas[0]
        if all(schema.keys() == {"type"} for schema in schemas):
            return {"type": [schema["type"] for schema in schemas]}
        return {"anyOf": schemas}

    def of(self, kind: Any) -> dict[str, Any]:
        """The schema of a type. Raises `TypeError` for one that no result may have."""
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if kind in _SIMPLE:
            return {"type": _SIMPLE[kind]}
        if kind is float:
            return {"anyOf": [{"type": "number"}, {"enum": ["nan", "inf", "-inf"]}]}
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            return {"enum": [jsonable(one) for one in kind]}
        if origin in (typing.Union, types.UnionType):
            return self.any_of(arguments)
        if origin in (collections.abc.Mapping, dict):
            return {"type": "object", "additionalProperties": self.of(arguments[1])}
        if origin is tuple and arguments[-1] is not Ellipsis:
            parts = [self.of(one) for one in arguments]
            return {"type": "array", "prefixItems": parts, "minItems": len(parts), "maxItems": len(parts)}
        if origin in (tuple, list, collections.abc.Sequence):
            return {"type": "array", "items": self.of(arguments[0])}
        return self._dataclass(kind)

    def _dataclass(self, kind: Any) -> dict[str, Any]:
        if not dataclasses.is_dataclass(kind) or not isinstance(kind, type):
            raise TypeError(f"{kind} is nothing that a result may hold")
        name = kind.__name__
        if self._kinds.setdefault(name, kind) is not kind:
            raise TypeError(f"two results are called {name}")
        if name not in self.defs:
            self.defs[name] = {}  # it may hold itself
            types_ = hints(kind)
            fields = {field.name: self.of(types_[field.name]) for field in dataclasses.fields(kind)}
            self.defs[name] = {"description": inspect.getdoc(kind), **_object(fields)}
        return {"$ref": f"#/$defs/{name}"}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    """An object with exactly these."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
