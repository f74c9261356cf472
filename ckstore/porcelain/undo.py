"""undo: take back how refs moved, or what gc dropped, by one more record; undoing an undo is redo. Commits stay."""

from __future__ import annotations

import re
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckstore.checkpoint.refs import change, move_refs
from ckstore.checkpoint.whole import has_component, whole_check
from ckstore.errors import Absent, Conflict, Integrity, InvalidInput
from ckstore.storage.collector import REPAIR, collecting
from ckstore.storage.record import FETCH, REMOTES, Filled, Record, RefMove, Symbolic
from ckstore.storage.view import View

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from ckstore.checkpoint.refs import RefChange
    from ckstore.repository import Commits, Repository
    from ckstore.storage.collector import Collector
    from ckstore.storage.record import Target

REASON = "undo"
_RESTORE = "restore"
_UNDO = re.compile(rf"{REASON} (\d+)")
_SHORT = 12


@dataclass(frozen=True)
class UndoOptions:
    """`seq` is the record to take back, as `reflog` shows it; None: the newest that is no undo and still stands.

    With `dry_run` nothing moves.
    """

    time_ns: int
    seq: int | None = None
    dry_run: bool = False


@dataclass(frozen=True)
class UndoResult:
    """The record that was taken back, why it had been written and when, and how the refs moved now.

    Of a gc, `restored` commits' components are back, and `lost` ones are not: their packs have been removed.

    `record` is the new record, with which it can be undone in turn; None for a dry run.
    """

    seq: int
    reason: str
    time_ns: int
    moves: tuple[RefChange, ...]
    record: int | None
    restored: int = 0
    lost: int = 0


@dataclass(frozen=True)
class _Found:
    """A record to take back, and for each ref that moved since, or in it, the newest record that moved it."""

    seq: int
    record: Record
    last_moved: dict[str, int]


def undo(repository: Repository, options: UndoOptions) -> UndoResult:
    """Put the refs that a record moved back to where they were before it, all or none; or bring back what gc dropped.

    Where gc has taken what a ref is to go back to, that is brought back too, as long as it is on the disk.

    Raises `Absent` where all that gc dropped has been removed, `InvalidInput` where there is nothing to take back, or
    the record is not there, changed nothing of that kind or has been undone already; `Conflict` where a ref is not
    where the record put it any more; `Integrity` where a commit to go back to, or the journal that far back, cannot be
    read.
    """
    found = _find(repository, options.seq)
    commits = repository.commits()
    moves = [RefMove(move.name, move.new, move.old) for move in _moved(found.record)]
    for move in moves:
        _check_stands(move, commits.targets.get(move.name), found)
    targets = {move.new for move in moves if isinstance(move.new, bytes)}
    is_whole = _are_whole(repository, commits, targets)
    if is_whole or not repository.store.ask(View.condemned):
        for target in targets:
            commits.read_commit(target)
    said = (found.seq, found.record.reason, found.record.time_ns)
    if _drops(found.record):
        return UndoResult(*said, (), *_bring_back(repository, found, options))
    if options.dry_run:
        return UndoResult(*said, tuple(map(change, moves)), None)
    with nullcontext() if is_whole else collecting(repository.store) as collector:
        if collector is not None:
            _restore(repository, collector, options.time_ns, _RESTORE)
            for target in targets:
                repository.commits().read_commit(target)
        moved = move_refs(repository, f"{REASON} {found.seq}", options.time_ns, moves)
    return UndoResult(*said, moved.moves, moved.record)


def _are_whole(repository: Repository, commits: Commits, targets: Collection[bytes]) -> bool:
    """Whether commits to go back to, and those before them, are all here."""
    try:
        for target in targets:
            commits.read_commit(target)
        whole_check(repository, commits, targets)()
    except (Conflict, Integrity):
        return False
    return True


def _restore(repository: Repository, collector: Collector, time_ns: int, reason: str) -> int | None:
    """Use all condemned packs again whose files are there: the number of the record that says so, None for none."""
    store = repository.store
    waiting = [one.pack for one in store.ask(View.condemned) if store.layout.pack(one.pack.name).exists()]
    return collector.restore(Record(time_ns, reason, tuple(waiting))) if waiting else None


def _bring_back(repository: Repository, found: _Found, options: UndoOptions) -> tuple[int | None, int, int]:
    """Use condemned packs again whose files are there: the record, how many components are back, and how many lost."""
    store = repository.store
    time_ns, reason = options.time_ns, f"{REASON} {found.seq}"
    with collecting(store) as collector:
        if options.dry_run:
            return None, 0, 0
        _restore(repository, collector, time_ns, reason)
        commits = repository.commits()
        filled = []
        for hole in found.record.holes:
            trees = {entry.name: entry.tree for entry in commits.read_commit(hole.commit).components}
            if has_component(repository, trees[hole.component]):
                filled.append(Filled(hole.commit, hole.component))
        lost = len(found.record.holes) - len(filled)
        if not filled:
            raise Absent(
                f"what the gc of record {found.seq} dropped has been removed", hint="a remote may still hold it"
            )
        record = collector.restore(Record(time_ns, reason, filled=tuple(filled)))
    return record, len(filled), lost


def _find(repository: Repository, wanted: int | None) -> _Found:
    """The record `wanted`, or the newest with moves that is no undo and has not been undone."""
    undone: dict[int, int] = {}
    last_moved: dict[str, int] = {}
    for seq, record in _records(repository, wanted):
        for move in _moved(record):
            last_moved.setdefault(move.name, seq)
        if seq == wanted:
            _check_can_be_undone(seq, record, undone.get(seq))
            return _Found(seq, record, last_moved)
        target = _undoes(record)
        if seq not in undone and target is not None:
            undone[target] = seq
        elif seq not in undone and wanted is None and not _follows(record) and (_moved(record) or _drops(record)):
            return _Found(seq, record, last_moved)
    if wanted is not None:
        raise InvalidInput(f"the journal has no record {wanted}", hint="`ckstore reflog` shows them with their numbers")
    raise InvalidInput("there is nothing to undo", hint="`ckstore reflog` shows what happened; `ckstore undo NUMBER`")


def _records(repository: Repository, wanted: int | None) -> Iterator[tuple[int, Record]]:
    """The journal's records, newest first, no further back than `wanted`."""
    for seq, record in repository.store.history():
        if wanted is not None and seq < wanted:
            return
        yield seq, record


def _check_can_be_undone(seq: int, record: Record, undone_by: int | None) -> None:
    if record.reason == FETCH and record.holes:
        raise InvalidInput(
            f"record {seq} is of a fetch, which left data out", hint="`ckstore fetch --fill` brings that data"
        )
    if not _moved(record) and not _drops(record):
        raise InvalidInput(f"record {seq} moved no branch, tag or HEAD", hint="`ckstore reflog` shows those that did")
    if undone_by is not None:
        raise InvalidInput(
            f"record {seq} has been undone already, by record {undone_by}",
            hint=f"`ckstore undo {undone_by}` brings it back",
        )


def _check_stands(move: RefMove, now: Target, found: _Found) -> None:
    """Raise `Conflict` unless the ref is where the record to be taken back left it."""
    if now == move.old:
        return
    later = found.last_moved[move.name]
    known = later != found.seq  # else it moved after the journal was read
    raise Conflict(
        f"{move.name} is not where record {found.seq} left it",
        why=f"it was {_place(move.old)} and is {_place(now)} now{f', by record {later}' if known else ''}",
        hint=f"take that back first: `ckstore undo {later}`" if known else "try again",
    )


def _moved(record: Record) -> list[RefMove]:
    return [move for move in record.refs if move.old != move.new]


def _drops(record: Record) -> bool:
    """Whether a record notes as absent what may be brought back: not what a repair found lost, or a fetch left out."""
    return bool(record.holes) and record.reason not in (REPAIR, FETCH)


def _follows(record: Record) -> bool:
    """Whether a record only says where a remote's refs are."""
    return record.reason == FETCH or (all(move.name.startswith(REMOTES) for move in record.refs) and bool(record.refs))


def _undoes(record: Record) -> int | None:
    """The record that this one took back; None where it is no undo."""
    said = _UNDO.fullmatch(record.reason)
    return int(said[1]) if said else None


def _place(target: Target) -> str:
    if isinstance(target, Symbolic):
        return f"on {target.name}"
    return "not there" if target is None else f"at {target.hex()[:_SHORT]}"
