"""import: checkpoints that lie in a folder become one history, in the order of their steps."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckstore.checkpoint.committed_files import committed_files
from ckstore.checkpoint.originals import delete_original, finish_deleting
from ckstore.checkpoint.store import CommitOptions
from ckstore.checkpoint.store_files import store_files
from ckstore.errors import Format, InvalidInput, NotFound
from ckstore.files.collect import REPOSITORY, collect
from ckstore.files.facts import Facts, Table, from_file, from_folder, from_name, last_number
from ckstore.files.order import natural_key
from ckstore.files.source import Files
from ckstore.files.units import OTHER, units
from ckstore.graph.history import ancestry
from ckstore.progress import SILENT, Part

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from pathlib import Path

    from ckstore.checkpoint.store import CommitResult
    from ckstore.files.collect import Collected
    from ckstore.progress import Progress
    from ckstore.repository import Repository

_SHOWN = 8

Signature = frozenset[tuple[str, int, int]]
"""The files of a checkpoint: name, size, time of change."""


@dataclass(frozen=True)
class ImportOptions:
    """What to import, and what is said of it.

    `patterns` are globs under `folder` for files or folders, one checkpoint each (none: the only run that is found
    there). `metric_from` is a regular expression with named groups for names, `table` a CSV with a column `step`.
    `branch` None means HEAD's. With `opaque` nothing looks inside the files.
    """

    folder: Path
    now_ns: int
    patterns: Sequence[str] = ()
    branch: str | None = None
    metric_from: str | None = None
    table: Path | None = None
    preset: str | None = None
    author: str = ""
    offset_min: int = 0
    opaque: bool = False


@dataclass(frozen=True)
class ImportEntry:
    """One checkpoint: where it is, what it says of itself, when it was made; `commit` if the branch has it already."""

    name: str
    path: Path
    size_bytes: int
    time_ns: int
    facts: Facts
    commit: str | None = None


@dataclass(frozen=True)
class ImportPlan:
    """The checkpoints in the order in which they become commits, and those that are damaged, with the reason."""

    branch: str
    entries: tuple[ImportEntry, ...]
    damaged: tuple[tuple[str, str], ...]
    options: ImportOptions


@dataclass(frozen=True)
class ImportResult:
    """What became of a plan. `freed_bytes` were deleted, each file after it had been read back and found equal."""

    branch: str
    imported: int
    already_there: int
    damaged: tuple[tuple[str, str], ...]
    raw_bytes: int
    pack_bytes: int
    freed_bytes: int
    tip: str | None = None


def plan_import(repository: Repository, options: ImportOptions) -> ImportPlan:
    """Find the checkpoints, their order, and which of them are in the branch already: files of the same names, sizes
    and times.

    Raises `NotFound`, `InvalidInput`.
    """
    pattern = _compiled(options.metric_from)
    table = None if options.table is None else Table(options.table)
    commits = repository.commits()
    branch = options.branch or (commits.head_name or "").removeprefix("heads/")
    if not branch:
        raise InvalidInput("HEAD is on no branch", hint="name one with --branch")
    tip = commits.branches.get(branch)
    known = {} if tip is None else _imported(repository, tip)
    entries, damaged = [], []
    for path in _chosen(options):
        name = path.relative_to(options.folder).as_posix() if path != options.folder else path.name
        found = collect([path])
        try:
            facts = _facts(name, found, pattern, options)
        except Format as error:
            damaged.append((name, error.what))
            continue
        facts = facts if table is None else table.facts(facts).over(facts)
        sizes = [file.stat() for file in found.files.values()]
        size, time_ns = sum(about.st_size for about in sizes), max(about.st_mtime_ns for about in sizes)
        entries.append(ImportEntry(name, path, size, time_ns, facts, known.get(_signature(found))))
    return ImportPlan(branch, tuple(_ordered(entries)), tuple(damaged), options)


def execute_import(
    repository: Repository, plan: ImportPlan, progress: Progress = SILENT, *, replace_originals: bool = False
) -> ImportResult:
    """Commit what is not there yet, one after another; a second try goes on where the first stopped.

    With `replace_originals` each original is deleted once it is durable, has been read back from the disk and is equal
    byte for byte; those that an earlier try left are deleted too. Raises as `store_files`; `Integrity` where something
    does not come back, and its original stays.
    """
    if replace_originals:
        finish_deleting(plan.options.folder)
    progress.start("importing", sum(entry.size_bytes for entry in plan.entries if entry.commit is None))
    made: list[CommitResult] = []
    freed = 0
    for entry in plan.entries:
        id = entry.commit
        if id is None:
            made.append(_store(repository, plan, entry, progress))
            id = made[-1].id
        if replace_originals:
            delete_original(repository, id, entry.path)
            freed += entry.size_bytes
    tip = repository.commits().branches.get(plan.branch)
    return ImportResult(
        branch=plan.branch,
        imported=len(made),
        already_there=len(plan.entries) - len(made),
        damaged=plan.damaged,
        raw_bytes=sum(one.raw_bytes for one in made),
        pack_bytes=sum(one.pack_bytes for one in made),
        freed_bytes=freed,
        tip=tip.hex() if tip else None,
    )


def _store(repository: Repository, plan: ImportPlan, entry: ImportEntry, progress: Progress) -> CommitResult:
    options = plan.options
    said = CommitOptions(
        time_ns=entry.time_ns,
        offset_min=options.offset_min,
        author=options.author,
        message=f"import {entry.name}",
        metrics=entry.facts.metrics,
        step=entry.facts.step,
        epoch=entry.facts.epoch,
        branch=plan.branch,
        preset=options.preset,
        recorded_ns=options.now_ns,
    )
    return store_files(repository, [entry.path], said, Part(progress), opaque=options.opaque)


def _compiled(pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InvalidInput(f"--metric-from {pattern!r} is no regular expression: {error}") from error
    if not compiled.groupindex:
        raise InvalidInput(
            f"--metric-from {pattern!r} names no metric", hint="name its groups: 'loss=(?P<loss>[0-9.]+[0-9])'"
        )
    return compiled


def _chosen(options: ImportOptions) -> list[Path]:
    """The checkpoints that were asked for, none inside another."""
    folder = options.folder
    if not folder.is_dir():
        raise NotFound(f"no folder {folder}", hint="check the path")
    if not options.patterns:
        return _only_run(folder)
    found: set[Path] = set()
    for pattern in options.patterns:
        try:
            found.update(path for path in folder.glob(pattern) if REPOSITORY not in path.parts)
        except (ValueError, NotImplementedError, IndexError) as error:
            raise InvalidInput(
                f"--pattern {pattern!r} is no pattern: {error}", hint="write it as 'step_*.pt'"
            ) from None
    if not found:
        held = ", ".join(sorted(path.name for path in folder.iterdir())[:_SHOWN])
        raise NotFound(f"nothing in {folder} matches {', '.join(options.patterns)}", why=f"it holds {held}")
    return [path for path in sorted(found) if not any(above in found for above in path.parents)]


def _only_run(folder: Path) -> list[Path]:
    """The checkpoints of the one run that lies in a folder."""
    found = [unit for unit in units(folder) if unit.kind != OTHER]
    runs = sorted({unit.series for unit in found})
    if len(runs) != 1:
        raise InvalidInput(
            f"{folder} holds checkpoints of {len(runs)} runs" if runs else f"{folder} holds no checkpoints",
            why=", ".join(runs[:_SHOWN]) or None,
            hint="choose with --pattern, and a --branch for each run",
        )
    return [unit.path for unit in found]


def _facts(name: str, found: Collected, pattern: re.Pattern[str] | None, options: ImportOptions) -> Facts:
    """What is known of a checkpoint, the surest first."""
    said = from_name(name, pattern)
    if options.opaque:
        return said.over(last_number(name))
    if not found.alone:
        return said.over(from_folder(found.files)).over(last_number(name))
    ((inner, path),) = found.files.items()
    with Files() as files:
        return said.over(from_file(inner, files.add(path))).over(last_number(name))


def _ordered(entries: Sequence[ImportEntry]) -> list[ImportEntry]:
    """By step, else by epoch; what has neither comes last, by the time it was made."""

    def place(entry: ImportEntry) -> tuple[object, ...]:
        step, epoch = entry.facts.step, entry.facts.epoch
        if step is None and epoch is None:
            return (1, entry.time_ns, 0, natural_key(entry.name))
        return (0, -1 if step is None else step, -1 if epoch is None else epoch, natural_key(entry.name))

    return sorted(entries, key=place)


def _signature(found: Collected) -> Signature:
    """The files of a checkpoint as they lie on the disk."""
    return frozenset((name, *_size_and_time(path.stat())) for name, path in found.files.items())


def _size_and_time(about: os.stat_result) -> tuple[int, int]:
    return about.st_size, about.st_mtime_ns


def _imported(repository: Repository, tip: bytes) -> dict[Signature, str]:
    """The commits of a branch by the files they were made from."""
    known: dict[Signature, str] = {}
    for id, commit in ancestry([tip], repository.commits().read_commit):
        held = committed_files(repository, commit)
        if held is not None:
            signature = frozenset((name, file.size, file.mtime_ns) for name, file in held.files.items())
            known.setdefault(signature, id.hex())
    return known
