"""config: settings, where they come from, and changing them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ckstore.cli.context import JsonFlag, emit, settings
from ckstore.cli.text import printable, table

if TYPE_CHECKING:
    from ckstore.cli.context import Settings
    from ckstore.porcelain.settings import SettingChange
    from ckstore.setting import Value

config = typer.Typer(
    help="Show and change settings.\n\n"
    "They come from CKSTORE_* variables, the repository's .ckstore/config.toml, [tool.ckstore] of a pyproject.toml, "
    "and the user's config.toml, in that order.\n\nExample: ckstore config set metrics.val/loss min",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

UserFlag = Annotated[bool, typer.Option("--user", help="In the user's file instead of the repository's.")]


@config.command("list")
def list_(
    context: typer.Context,
    origin: Annotated[bool, typer.Option("--origin", help="Say where each comes from.")] = False,
    json: JsonFlag = False,
) -> None:
    """Show every setting.

    Example: ckstore config list --origin
    """
    from ckstore.porcelain.settings import list_settings

    told = settings(context, json_flag=json)
    result = list_settings(told.config())
    rows = [
        (
            one.name,
            _value(one.value) if one.problem is None else "(cannot be read)",
            one.origin if origin else one.about,
        )
        for one in result.settings
    ]
    lines = table(("setting", "value", "origin" if origin else ""), [tuple(map(printable, row)) for row in rows])
    emit(told, result, "\n".join([*lines, *(f"warning: {printable(what)}" for what in result.problems)]))


@config.command("get")
def get(context: typer.Context, name: Annotated[str, typer.Argument(help="Which.")], json: JsonFlag = False) -> None:
    """Print one setting.

    Example: ckstore config get storage.preset
    """
    from ckstore.porcelain.settings import get_setting

    told = settings(context, json_flag=json)
    result = get_setting(told.config(), name)
    emit(told, result, _value(result.value))


@config.command("set")
def set_(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Which.")],
    value: Annotated[str, typer.Argument(help="The value; a list with commas.")],
    user: UserFlag = False,
    json: JsonFlag = False,
) -> None:
    """Change a setting; comments in the file stay.

    Example: ckstore config set storage.preset archive
    """
    from ckstore.porcelain.settings import set_setting

    told = settings(context, json_flag=json)
    if user:
        change = set_setting(told.config(), told.user_file(), name, value)
    else:
        with told.open() as repository:
            change = set_setting(repository.config, repository, name, value)
    _emit(told, change)


@config.command("unset")
def unset(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Which.")],
    user: UserFlag = False,
    json: JsonFlag = False,
) -> None:
    """Take a setting out of the file.

    Example: ckstore config unset storage.preset
    """
    from ckstore.porcelain.settings import unset_setting

    told = settings(context, json_flag=json)
    if user:
        change = unset_setting(told.config(), told.user_file(), name)
    else:
        with told.open() as repository:
            change = unset_setting(repository.config, repository, name)
    _emit(told, change)


def _emit(told: Settings, change: SettingChange) -> None:
    lines = [f"{change.name}: {_value(change.before)} -> {_value(change.after)} in {printable(str(change.file))}"]
    if change.overridden_by is not None:
        lines.append(f"warning: {change.overridden_by} says otherwise, and counts")
    emit(told, change, "\n".join(lines))


def _value(value: Value | None) -> str:
    if value is None:
        return "(not set)"
    return value if isinstance(value, str) else ", ".join(value) or "(none)"
