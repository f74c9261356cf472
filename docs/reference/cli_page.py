"""Every command with its options, as `--help` says them, and what all commands share."""

from __future__ import annotations

import inspect
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from annotations import hints
from json_schema import RESULTS

from ckstore.cli.context import SCHEMA
from ckstore.cli.group import ALIASES, OPTIONS, TASKS, Group
from ckstore.cli.keeping import FINDINGS
from ckstore.cli.main import EXIT_CODES
from ckstore.cli.taking import PARTIAL
from ckstore.setting import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Iterator

ENVIRONMENT = (
    ("CKSTORE_INDEX", "`cache` puts the index into the user's cache, as for network mounts."),
    ("CKSTORE_NOW", "Seconds since 1970 UTC that stand in for the clock, so that commits can be made again alike."),
    ("CKSTORE_DEBUG", "Set: an error shows where it was raised."),
    ("XDG_CONFIG_HOME", "Holds `ckstore/config.toml`, the user's settings; `~/.config` if not set."),
    ("XDG_CACHE_HOME", "Holds `ckstore/`, the indexes of repositories on network mounts; `~/.cache` if not set."),
    ("NO_COLOR", "Set: no colors. `TERM=dumb` says the same."),
    ("CI", "Set: progress is a line now and then, as where nobody looks at a terminal."),
)
"""Variables that are no settings."""

CODES = ((0, "Done."), (1, "Failed."), (PARTIAL, "Done in part."), (FINDINGS, "Something was found."),
         (130, "Interrupted."))  # fmt: skip
"""Exit codes that no single error stands for."""

_JSON = f"""
## JSON

With `--json`, before or after the command, a command prints one document:

```text
{{"schema": {SCHEMA}, "command": "log", "result": ...}}
{{"schema": {SCHEMA}, "error": {{"code": ..., "what": ..., "why": ..., "hint": ..., "retryable": ..., "exit_code": 1}}}}
```

[schema.json](schema.json) is the JSON Schema of both. Ids are 64 hexadecimal digits, times are nanoseconds since 1970
UTC, sizes bytes; NaN and infinities are the texts `"nan"`, `"inf"` and `"-inf"`."""

_KINDS = {str: "TEXT", int: "INT", float: "NUMBER", Path: "PATH"}


def cli_page() -> str:
    """The page."""
    return "\n".join([*_commands(), *_settings(), *_environment(), _JSON, *_exit_codes()]) + "\n"


def _commands() -> Iterator[str]:
    group = Group(name="ckstore")
    aliases = {name: f" (`{alias}`)" for alias, name in ALIASES.items()}
    yield from ("# Commands", "", "What `ckstore COMMAND --help` says, on one page.", "")
    yield from ("Options before the command hold for all of them:", "")
    yield from (f"- `{option}`: {what}" for option, what in OPTIONS)
    for task, commands in TASKS.items():
        yield from ("", f"## To {task}")
        for listed in commands:
            yield from ("", f"### `{listed.name}`{aliases.get(listed.name, '')}", "")
            yield from _command(listed.name, group.get_command(None, listed.name))


def _command(path: str, command: Any) -> Iterator[str]:
    """What a command does, how it is called, and its options; then its subcommands, if it has some."""
    parts = inspect.cleandoc(command.help or "").split("\n\n")
    examples = [part.removeprefix("Example: ") for part in parts if part.startswith("Example: ")]
    yield _prose("\n\n".join(part for part in parts if not part.startswith("Example: ")))
    subcommands = getattr(command, "commands", {})
    params = [param for param in command.params if not param.hidden]
    kinds = {} if subcommands else hints(inspect.unwrap(command.callback))
    arguments = [_argument(param) for param in params if param.param_type_name == "argument"]
    usage = " ".join(["ckstore", path, "COMMAND ..." if subcommands else "[OPTIONS]", *arguments])
    yield from ("", "```text", usage, "```")
    if params:
        yield ""
    for param in params:
        yield f"- `{_param(param, kinds[param.name])}`: {_prose(param.help)}{_default(param)}"
    results = [f"a list of `{_name(one[0])}`" if isinstance(one, list) else f"`{_name(one)}`"
               for one in RESULTS.get(path, ())]  # fmt: skip
    if results:
        yield from ("", f"Its [JSON](#json) holds {' or '.join(results)}.")
    yield from ("", "Examples:" if len(examples) > 1 else "Example:", "", "```text", *examples, "```")
    for name, below in subcommands.items():
        yield from ("", f"#### `{path} {name}`", "", *_command(f"{path} {name}", below))


def _prose(text: str) -> str:
    """Help as it is, in Markdown."""
    return text.replace("<", "&lt;").replace("*", "\\*")


def _name(place: str) -> str:
    return place.partition(":")[2]


def _argument(param: Any) -> str:
    name = param.metavar or param.name.upper()
    return name if param.required else f"[{name}]"


def _param(param: Any, kind: Any) -> str:
    """An argument, or an option with what it takes: `kind`, or a list of it, or nothing where it is a flag."""
    if param.param_type_name == "argument":
        return _argument(param)
    kinds = {one for part in (kind, *typing.get_args(kind)) for one in (part, *typing.get_args(part))}
    name = next((name for one, name in _KINDS.items() if one in kinds), "")
    return " ".join(filter(None, (", ".join(param.opts), param.metavar or name)))


def _default(param: Any) -> str:
    if param.required and param.param_type_name == "option":
        return " Required."
    is_said = "default" in param.help or param.default in (None, False, "")
    return "" if is_said else f" Default: `{param.default}`."


def _settings() -> Iterator[str]:
    yield from ("", "## Settings", "", "What `ckstore config` shows and changes.", "")
    yield from ("| setting | what it says | values | if not set |", "|---|---|---|---|")
    for one in SETTINGS:
        default = f"`{one.default}`" if isinstance(one.default, str) else ""
        yield f"| `{one.name}` | {one.about} | {', '.join(one.allowed) or one.noun} | {default} |"
    yield from ("", "Each is a variable too: `storage.preset` is `CKSTORE_STORAGE_PRESET`, and")
    yield "`CKSTORE_METRICS=val/loss=min,acc=max` says which way metrics are better,"
    yield "`CKSTORE_KEEP=main=last=3 within=7d,old=last=1` what two branches keep."


def _environment() -> Iterator[str]:
    yield from ("", "## Environment", "", "| variable | what it says |", "|---|---|")
    yield from (f"| `{name}` | {what} |" for name, what in ENVIRONMENT)


def _exit_codes() -> Iterator[str]:
    errors = [(code, f"`{error.__name__}`: {inspect.getdoc(error)}") for error, code in EXIT_CODES.items()]
    yield from ("", "## Exit codes", "", "| code | meaning |", "|---|---|")
    yield from (f"| {code} | {what} |" for code, what in sorted([*CODES, *errors]))
