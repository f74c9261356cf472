"""The commands by task, each imported when it is asked for: `--help` and `log` must answer at once."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import typer
from typer.core import TyperGroup
from typer.main import get_command

from ckstore.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator


class UnknownCommand(InvalidInput):
    """The first word is no command."""

    code = "usage"


class Listed(NamedTuple):
    """A command: where it is, and what it does, in the words of its own help."""

    name: str
    place: str
    summary: str


TASKS: dict[str, tuple[Listed, ...]] = {
    "make commits": (
        Listed("init", "saving:init", "Make an empty repository."),
        Listed(
            "commit", "saving:commit", "Store checkpoint files or folders as a commit; they come back byte for byte."
        ),
        Listed("import", "taking:import_", "Take checkpoints over as one history, in the order of their steps."),
        Listed(
            "scan",
            "taking:scan",
            "Say what folders of checkpoints would shrink to. Reads everything, writes nothing.",
        ),
    ),
    "look at them": (
        Listed("status", "looking:status", "Show where HEAD is, what is stored, and what to do next."),
        Listed("log", "looking:log", "Show commits, newest first."),
        Listed("list", "looking:list_", "Show commits as a table, to sort and filter."),
        Listed("show", "comparing:show", "Show what a commit holds."),
        Listed("diff", "comparing:diff", "Show what changed between two commits, tensor by tensor."),
        Listed("diverge", "comparing:diverge", "Find the step at which two runs that began alike part."),
        Listed("du", "looking:du", "Show what takes the space."),
    ),
    "get them back": (
        Listed("checkout", "moving:checkout", "Write a commit's files or state to the disk, or move to a branch."),
        Listed("export", "taking:export", "Write a commit's state for other tools, and check it bit for bit."),
    ),
    "name them": (
        Listed("branch", "moving:branch", "List, make, rename or delete branches."),
        Listed("tag", "moving:tag", "List, make or delete tags."),
        Listed("reflog", "moving:reflog", "Show how branches, tags and HEAD moved."),
        Listed("undo", "moving:undo", "Take back the last move of a branch, tag or HEAD, or what gc dropped."),
    ),
    "share them": (
        Listed("remote", "remotes:remote", "Add, list, test and remove the places that are pushed to and pulled from."),
        Listed("push", "sharing:push", "Send a remote what it lacks of branches and tags, then move them there."),
        Listed(
            "pull",
            "sharing:pull",
            "Fetch, then move branches here to where the remote's are, where no commit is left behind by that.",
        ),
        Listed(
            "fetch",
            "sharing:fetch",
            "Bring a remote's commits here without moving a branch: origin/main is where its branch is then.",
        ),
        Listed("clone", "sharing:clone", "Make a repository of what a remote holds, whole or in parts."),
    ),
    "keep them well": (
        Listed("gc", "retaining:gc", "Make room: drop what policies do not keep, and remove what nothing needs."),
        Listed("verify", "verifying:verify", "Check that everything the branches and tags reach is there."),
        Listed("repair", "repairing:repair", "Keep what is sound of damaged packs, and list what is lost."),
        Listed(
            "validate",
            "checking:validate",
            "Check what a commit holds: NaN, infinities, broken weights, other shapes.",
        ),
        Listed("pin", "pinning:pin", "Keep a commit whatever retention policies say, or list those."),
        Listed("unpin", "pinning:unpin", "Leave a pinned commit to the retention policies again."),
        Listed(
            "migrate", "keeping:migrate", "Take a repository of an older format to the one that this ckstore writes."
        ),
        Listed("config", "setting:config", "Show and change settings."),
        Listed("doctor", "keeping:doctor", "Check the installation and the repository's surroundings."),
        Listed("completion", "keeping:completion", "Print the script that completes commands in your shell."),
        Listed("demo", "demo:demo", "Train a small transformer, kill it, resume it, and look at what was stored."),
    ),
}
"""Every command, in the order of the help."""

ALIASES = {"ci": "commit", "st": "status", "ls": "list", "co": "checkout", "fsck": "verify"}

_LISTED = {listed.name: listed for task in TASKS.values() for listed in task}


class Group(TyperGroup):
    """Finds a command by its name or alias, and imports it then."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names, without the aliases."""
        return list(_LISTED)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name or alias, or None."""
        listed = _LISTED.get(ALIASES.get(cmd_name, cmd_name))
        if listed is None:
            return None
        if listed.name not in self.commands:
            module, _, name = listed.place.partition(":")
            found = getattr(import_module(f"ckstore.cli.{module}"), name)
            self.commands[listed.name] = _made(listed.name, found)
        return self.commands[listed.name]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that `args` begin with. Raises `UnknownCommand`, with those that are near."""
        if not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise UnknownCommand(f"no command {args[0]!r}", hint=_near(args[0]))
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """All commands by task: without importing any of them."""
        typer.echo("\n".join(_help()))


def _near(name: str) -> str:
    """The commands that a mistyped one may stand for."""
    found = difflib.get_close_matches(name, [*_LISTED, *ALIASES], n=3, cutoff=0.5)
    return f"did you mean {', '.join(found)}?" if found else "ckstore --help"


def _made(name: str, found: Any) -> Any:
    """A command of a function, or of a group of them."""
    if isinstance(found, typer.Typer):
        command = get_command(found)
    else:
        alone = typer.Typer(
            add_completion=False, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]}
        )
        alone.command(name)(found)
        command = get_command(alone)
    command.name = name
    return command


def _help() -> Iterator[str]:
    yield "git for training state: checkpoints as commits, deduplicated, bit-exact, safe under kill -9."
    yield ""
    yield "Usage: ckstore [OPTIONS] COMMAND [ARGS]...      ckstore COMMAND --help says more, with examples."
    short = {name: alias for alias, name in ALIASES.items()}
    for task, commands in TASKS.items():
        yield ""
        yield f"{task}:"
        for listed in commands:
            name = f"{listed.name}, {short[listed.name]}" if listed.name in short else listed.name
            yield f"  {name:<14} {listed.summary}"
    yield ""
    yield "options:"
    for option, what in OPTIONS:
        yield f"  {option:<14} {what}"


OPTIONS = (
    ("-C, --repo DIR", "The repository is in DIR, or above it."),
    ("--json", "Print one JSON document instead of text; errors too."),
    ("-q, --quiet", "Print nothing but errors."),
    ("-v, --verbose", "Say how long it took, too."),
    ("--no-progress", "Do not report progress."),
    ("--color WHEN", "auto, always or never (also: NO_COLOR)."),
    ("-y, --yes", "Answer yes to every question."),
    ("--no-input", "Never ask: what would need an answer is refused."),
    ("--version", "Print the version."),
    ("-h, --help", "Print this."),
)
