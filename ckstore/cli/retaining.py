"""gc: what policies keep and drop, and what that frees."""

from __future__ import annotations

import json as json_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ckstore.cli.context import PRICE, JsonFlag, Price, emit, jsonable, settings
from ckstore.cli.progress_line import size
from ckstore.cli.text import SHORT, printable, table
from ckstore.errors import InvalidInput
from ckstore.units import span_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckstore.porcelain.gc import GcCommit, GcPlan, GcResult

_MOST = 20
_CENT = 0.01


def gc(
    context: typer.Context,
    keep_last: Annotated[int | None, typer.Option("--keep-last", help="Keep so many of the newest.")] = None,
    keep_best: Annotated[
        list[str] | None, typer.Option("--keep-best", help="N:METRIC[:min|max]: keep the best so many.")
    ] = None,
    keep_every: Annotated[int | None, typer.Option("--keep-every", help="Keep one in so many steps.")] = None,
    keep_within: Annotated[str | None, typer.Option("--keep-within", help="Keep what is no older: 7d, 12h.")] = None,
    keep_tag: Annotated[
        bool, typer.Option("--keep-tag/--no-keep-tag", help="Keep what has a tag (with other rules).")
    ] = True,
    budget: Annotated[str | None, typer.Option("--budget", help="Keep what is worth most in so much: 200GB.")] = None,
    keep: Annotated[
        list[str] | None, typer.Option("--keep", help="Rules in words, as settings have them: 'optimizer:last=2'.")
    ] = None,
    branch: Annotated[
        list[str] | None, typer.Option("--branch", help="Only these branches; others keep everything.")
    ] = None,
    repack: Annotated[bool, typer.Option("--repack", help="Write packs anew of which little is needed.")] = False,
    deep: Annotated[bool, typer.Option("--deep", help="Encode all chains anew, in the fewest bytes.")] = False,
    grace: Annotated[
        str | None, typer.Option("--grace", help="How long what nothing needs stays on the disk: 7d, 0.")
    ] = None,
    trust_clock: Annotated[bool, typer.Option("--trust-clock", help="The clock is right though it jumped.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go, and why.")] = False,
    plan: Annotated[Path | None, typer.Option("--plan", help="Write the plan to this file; do nothing.")] = None,
    apply: Annotated[Path | None, typer.Option("--apply", help="Do what the plan in this file says.")] = None,
    price: Price = PRICE,
    json: JsonFlag = False,
) -> None:
    """Make room: drop what policies do not keep, and remove what nothing needs.

    Without rules here it does what the settings `retention.keep` and `keep.<branch>` say; without those it drops
    nothing that a branch, tag or pin leads to. The tip of a branch always stays. What is dropped stays on the disk for
    the grace time, and `ckstore undo` brings it back until then.

    Example: ckstore gc --keep-last 3 --keep-best 2:val/loss:min --dry-run

    Example: ckstore gc --repack --grace 0
    """
    from ckstore.porcelain.gc import GcOptions, grace_of, plan_gc
    from ckstore.porcelain.gc import gc as verb

    told = settings(context, json_flag=json)
    words = [*_words(keep_last, keep_best, keep_every, keep_within, budget), *(keep or ())]
    if words and not keep_tag:
        words.append("no-tags")
    options = GcOptions(
        told.now_ns,
        policies={name: " ".join(words) for name in branch or [""]} if words else None,
        grace_ns=None if grace is None else grace_of(grace),
        repack=repack,
        deep=deep,
        trust_clock=trust_clock,
        plan=None if apply is None else _read(apply),
    )
    if branch and not words:
        raise InvalidInput("--branch needs rules", hint="add --keep-last 3, say")
    if apply is not None and (words or repack or deep or grace is not None):
        raise InvalidInput("--apply does what the plan says", hint="leave the other options out, or plan again")
    with told.open() as repository:
        if dry_run or plan is not None:
            found = plan_gc(repository, options)
            if plan is not None:
                _write(plan, found)
            emit(told, found, "\n".join([*_plan(found, price, done=False), *_where(plan)]))
            return
        result = verb(repository, options, told.bar())
        emit(told, result, "\n".join(_result(result, price)))


def _words(
    last: int | None, best: Sequence[str] | None, every: int | None, within: str | None, budget: str | None
) -> list[str]:
    words = [f"last={last}"] if last is not None else []
    words += [f"best={text}" for text in best or ()]
    words += [f"every={every}"] if every is not None else []
    words += [f"within={within}"] if within is not None else []
    return words + ([f"budget={budget}"] if budget is not None else [])


def _write(path: Path, plan: GcPlan) -> None:
    from ckstore import durable

    durable.put(path.absolute(), json_.dumps(jsonable(plan), indent=2).encode())


def _read(path: Path) -> GcPlan:
    import msgspec

    from ckstore.porcelain.gc import GcPlan

    hint = "`ckstore gc --plan FILE` makes one"
    try:
        return msgspec.json.decode(path.read_bytes(), type=GcPlan)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}", hint=hint) from None
    except msgspec.MsgspecError as error:
        raise InvalidInput(f"{path} is no plan of gc: {error}", hint=hint) from None


def _plan(plan: GcPlan, price: float, *, done: bool) -> list[str]:
    """What goes and stays, and why; bytes where nothing has been done yet."""
    lines = []
    dropped = plan.dropped
    kept = [one for one in plan.commits if one.kept]
    if dropped:
        lines += [f"{'Dropped' if done else 'Would drop'} the data of:", *_rows(dropped)]
        lines += ["Kept:", *_rows(kept)]
    lines += [f"Note: {printable(warning)}" for warning in plan.warnings]
    if not done:
        lines += _bytes(plan, price, plan.removed_bytes, plan.condemned_bytes, plan.written_bytes, "Would free")
    return lines


def _rows(commits: Sequence[GcCommit]) -> list[str]:
    rows = [
        (
            one.id[:SHORT],
            "" if one.step is None else f"step {one.step}",
            printable("; ".join(_reasons(one))),
        )
        for one in commits[:_MOST]
    ]
    more = [f"  and {len(commits) - _MOST} more (--json lists all)"] if len(commits) > _MOST else []
    return [*(f"  {line}" for line in table(("",) * 3, rows)[1:]), *more] if rows else ["  nothing"]


def _reasons(one: GcCommit) -> Sequence[str]:
    """Why a commit is dropped, or what goes of one that is kept, and why that is kept."""
    return [*one.reasons, *(f"without {name}: {why}" for name, why in one.components.items())]


def _bytes(plan: GcPlan, price: float, removed: int, condemned: int, written: int, verb: str) -> list[str]:
    if not (removed or condemned or plan.dropped):
        return ["Nothing to remove: all of it is needed."]
    later = f", {size(condemned)} after {span_text(plan.grace_ns)}" if condemned else ""
    lines = [f"{verb} {size(removed)} now{later}."]
    if written:
        lines.append(f"{size(written)} are written anew for that.")
    saved = (removed + condemned - written) * price / 1e9
    if saved >= _CENT:
        lines.append(f"That is ${saved:,.2f} a month less, at ${price:g} a GB and month.")
    if condemned:
        lines.append("To free it now: ckstore gc --grace 0; to have it back until then: ckstore undo")
    if plan.left_bytes > max(1 << 20, written) and not plan.repack:
        lines.append(f"{size(plan.left_bytes)} more lie among what is needed: ckstore gc --repack frees most of that.")
    return lines


def _where(path: Path | None) -> list[str]:
    return [] if path is None else [f"The plan is in {path}: ckstore gc --apply {path}"]


def _result(result: GcResult, price: float) -> list[str]:
    lines = _plan(result.plan, price, done=True)
    return [
        *lines,
        *_bytes(result.plan, price, result.removed_bytes, result.condemned_bytes, result.written_bytes, "Freed"),
    ]
