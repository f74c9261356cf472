"""Writes the reference pages from the sources: `python docs/reference/build.py [--check]`.

`cli.md` from the commands' own help, `api.md` from the public names' docstrings, `schema.json` (what `--json` prints)
from the types of the commands' results. `--check` writes nothing and fails where a page is not what it would write.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import json
import sys
import types
import typing
from importlib import import_module
from pathlib import Path
from typing import Any

import ckstore
from ckstore.cli.context import SCHEMA
from ckstore.cli.group import ALIASES, OPTIONS, TASKS, Group
from ckstore.graph.history import CommitInfo

HERE = Path(__file__).parent
NOTE = "<!-- written by docs/reference/build.py -->"

RESULTS: dict[str, Any] = {
    "init": "ckstore.porcelain.init:InitResult",
    "commit": "ckstore.checkpoint.store:CommitResult",
    "import": ("ckstore.porcelain.import_files:ImportResult", "ckstore.porcelain.import_files:ImportPlan"),
    "scan": "ckstore.porcelain.scan:ScanResult",
    "status": "ckstore.porcelain.status:StatusResult",
    "log": ["ckstore.graph.history:CommitInfo"],
    "list": ["ckstore.graph.history:CommitInfo"],
    "show": "ckstore.porcelain.show:ShowResult",
    "diff": "ckstore.porcelain.diff:DiffResult",
    "diverge": "ckstore.porcelain.diverge:DivergeResult",
    "du": "ckstore.porcelain.du:DuResult",
    "checkout": ("ckstore.porcelain.checkout:CheckoutResult", "ckstore.porcelain.checkout:SwitchResult"),
    "export": "ckstore.porcelain.export:ExportResult",
    "verify": "ckstore.porcelain.verify:VerifyResult",
    "doctor": "ckstore.porcelain.doctor:DoctorResult",
    "demo": "ckstore.cli.demo:DemoResult",
}
"""What each command's `--json` holds as `result`: a type, a list of one, or one of several."""

_NAMES = {
    "Path": Path,
    "Mapping": collections.abc.Mapping,
    "Sequence": collections.abc.Sequence,
    "CommitInfo": CommitInfo,
}
"""What the sources import for type checkers only."""


def named(place: str) -> Any:
    """The type at `module:name`."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


class Schema:
    """JSON Schema (2020-12) of result types; each dataclass once, under `$defs`."""

    def __init__(self) -> None:
        self.defs: dict[str, Any] = {}

    def of(self, kind: Any) -> dict[str, Any]:
        """The schema of a type."""
        if isinstance(kind, str):
            return self.of(named(kind))
        if isinstance(kind, list):
            return {"type": "array", "items": self.of(kind[0])}
        if isinstance(kind, tuple):
            return {"anyOf": [self.of(one) for one in kind]}
        if dataclasses.is_dataclass(kind):
            return self._dataclass(kind)
        return self._plain(kind)

    def _plain(self, kind: Any) -> dict[str, Any]:
        simple = {str: "string", Path: "string", int: "integer", bool: "boolean", type(None): "null"}
        if kind in simple:
            return {"type": simple[kind]}
        if kind is float:
            return {"anyOf": [{"type": "number"}, {"enum": ["nan", "inf", "-inf"]}]}
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin in (typing.Union, types.UnionType):
            return {"anyOf": [self.of(one) for one in arguments]}
        if origin is collections.abc.Mapping or origin is dict:
            return {"type": "object", "additionalProperties": self.of(arguments[1])}
        if origin is tuple and arguments[-1] is not Ellipsis:
            return {"type": "array", "prefixItems": [self.of(one) for one in arguments], "minItems": len(arguments),
                    "maxItems": len(arguments)}  # fmt: skip
        if origin in (tuple, list, collections.abc.Sequence):
            return {"type": "array", "items": self.of(arguments[0])}
        return {}

    def _dataclass(self, kind: Any) -> dict[str, Any]:
        name = kind.__name__
        if name not in self.defs:
            self.defs[name] = {}
            names = {**_NAMES, **vars(import_module(kind.__module__))}
            hints = typing.get_type_hints(kind, names, _NAMES | _siblings(kind))
            self.defs[name] = {
                "type": "object",
                "description": inspect.getdoc(kind),
                "properties": {field.name: self.of(hints[field.name]) for field in dataclasses.fields(kind)},
                "required": [field.name for field in dataclasses.fields(kind)],
                "additionalProperties": False,
            }
        return {"$ref": f"#/$defs/{name}"}


def _siblings(kind: Any) -> dict[str, Any]:
    """The types that a result's module imports for type checkers only, from where they are."""
    source = inspect.getsource(import_module(kind.__module__))
    found: dict[str, Any] = {}
    for line in source.splitlines():
        if line.startswith("    from ckstore.") and " import " in line:
            module, _, names = line.strip().removeprefix("from ").partition(" import ")
            found |= {name: getattr(import_module(module), name) for name in names.split(", ")}
    return found


def schema() -> str:
    """`schema.json`: one document for every command, and for errors."""
    builder = Schema()
    commands = [
        {
            "type": "object",
            "properties": {"schema": {"const": SCHEMA}, "command": {"const": name}, "result": builder.of(kind)},
            "required": ["schema", "command", "result"],
            "additionalProperties": False,
        }
        for name, kind in RESULTS.items()
    ]
    text = {"type": "string"}
    maybe = {"type": ["string", "null"]}
    fields = {"code": text, "what": text, "why": maybe, "hint": maybe, "retryable": {"type": "boolean"},
              "exit_code": {"type": "integer"}}  # fmt: skip
    error = {
        "type": "object",
        "properties": {
            "schema": {"const": SCHEMA},
            "error": {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False},
        },
        "required": ["schema", "error"],
        "additionalProperties": False,
    }
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"What ckstore prints with --json (version {SCHEMA})",
        "oneOf": [*commands, error],
        "$defs": builder.defs,
    }
    return json.dumps(document, indent=2) + "\n"


def cli() -> str:
    """`cli.md`: every command with its options, as `--help` says them."""
    group = Group(name="ckstore")
    aliases = {name: alias for alias, name in ALIASES.items()}
    lines = ["# Commands", "", NOTE, "", "Options before the command hold for all of them:", ""]
    lines += ["| option | |", "|---|---|", *(f"| `{option}` | {what} |" for option, what in OPTIONS)]
    for task, commands in TASKS.items():
        lines += ["", f"## To {task}"]
        for listed in commands:
            title = f"{listed.name}` (`{aliases[listed.name]}" if listed.name in aliases else listed.name
            suffix = "`)" if listed.name in aliases else "`"
            lines += ["", f"### `{title}{suffix}", "", *_command(f"ckstore {listed.name}", group.get_command(None, listed.name))]
    lines += ["", "## Exit codes", "", *_exit_codes()]
    return "\n".join(lines) + "\n"


def _command(path: str, command: Any) -> list[str]:
    text = inspect.cleandoc(command.help or "")
    lines = [part for part in text.split("\n") if not part.startswith("Example: ")]
    examples = [part.removeprefix("Example: ") for part in text.split("\n") if part.startswith("Example: ")]
    lines = ["\n".join(lines).strip().replace("\n\n\n", "\n\n")]
    if examples:
        lines += ["", "```text", *examples, "```"]
    rows = [f"| `{_shown(param)}` | {param.help or ''} |" for param in command.params if not getattr(param, "hidden", False)]
    if rows:
        lines += ["", "| | |", "|---|---|", *rows]
    for name, below in getattr(command, "commands", {}).items():
        lines += ["", f"#### `{path.removeprefix('ckstore ')} {name}`", "", *_command(f"{path} {name}", below)]
    return lines


def _shown(param: Any) -> str:
    if param.param_type_name == "argument":
        return str(param.make_metavar(ctx=None) if False else param.metavar or param.name.upper())
    names = ", ".join(param.opts)
    return names if getattr(param, "is_flag", False) else f"{names} {param.metavar or param.name.upper()}"


def _exit_codes() -> list[str]:
    from ckstore.cli.main import EXIT_CODES

    rows = {0: "done", 1: "failed", 3: "done in part", 4: "something was found", 130: "interrupted"}
    rows |= {code: f"{error.__name__}: {inspect.getdoc(error)}" for error, code in EXIT_CODES.items()}
    return ["| code | |", "|---|---|", *(f"| {code} | {what} |" for code, what in sorted(rows.items()))]


def api() -> str:
    """`api.md`: the public names."""
    lines = ["# Python API", "", NOTE, "", "What `import ckstore` offers. Names are loaded at their first use."]
    for name in ckstore.__all__:
        value = getattr(ckstore, name)
        if inspect.isclass(value) and issubclass(value, BaseException):
            continue
        if inspect.isclass(value):
            lines += ["", f"## `{name}`", "", inspect.getdoc(value) or "", *_members(value)]
        elif callable(value):
            lines += ["", f"## `{name}{inspect.signature(value)}`".replace("'", ""), "", inspect.getdoc(value) or ""]
    lines += ["", "## Errors", "", "```text", inspect.getdoc(import_module("ckstore.errors")) or "", "```"]
    return "\n".join(lines) + "\n"


def _members(kind: Any) -> list[str]:
    lines: list[str] = []
    for name, member in vars(kind).items():
        if name.startswith("_") and name not in ("__getitem__",):
            continue
        if isinstance(member, property):
            lines += ["", f"### `.{name}`", "", inspect.getdoc(member) or ""]
        elif inspect.isfunction(member):
            signature = str(inspect.signature(member)).replace("'", "").replace("self, ", "").replace("(self)", "()")
            lines += ["", f"### `.{name}{signature}`", "", inspect.getdoc(member) or ""]
    return lines


PAGES = {"cli.md": cli, "api.md": api, "schema.json": schema}


def main() -> None:
    """Write the pages, or check them."""
    for name, page in PAGES.items():
        path, text = HERE / name, page()
        if "--check" not in sys.argv[1:]:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            sys.exit(f"docs/reference/{name} is not what the sources say: run docs/reference/build.py")


if __name__ == "__main__":
    main()
