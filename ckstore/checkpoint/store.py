"""Drafts become a commit: where it goes is checked first, then all is stored, then the refs move."""

from __future__ import annotations

import os
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from operator import index
from typing import TYPE_CHECKING

from ckstore import durable
from ckstore.checkpoint.whole import whole_check
from ckstore.codec.preset import preset_named
from ckstore.digest import Kind
from ckstore.errors import CkstoreWarning, Format, Integrity, InvalidInput
from ckstore.graph.revision import check_ref_name
from ckstore.objects.commit import Commit, Component, Metric
from ckstore.objects.draft import raw_bytes
from ckstore.objects.encoding import encode, float_bits
from ckstore.objects.reader import read_tree
from ckstore.progress import SILENT
from ckstore.storage.ingest import ingest
from ckstore.storage.packer import META
from ckstore.storage.record import HEADS, TAGS, RefMove
from ckstore.storage.transaction import Transaction
from ckstore.storage.versions import LIKE_AT_MOST, Candidate, earlier_versions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from ckstore.objects.draft import Draft
    from ckstore.objects.tree import Tree
    from ckstore.progress import Progress
    from ckstore.repository import Commits, Repository
    from ckstore.storage.remembered import Remembered
    from ckstore.storage.workers import Workers


_LEAST_ROOM_BYTES = 128 << 10
_LEAST_FILES = 8
"""With less room than this no commit is even tried."""

_MUCH_BYTES = 16 << 20
"""After commits that add so much the reserve is looked after."""

_LIKELY_SHARE = 0.6
"""New numbers rarely take less of their bytes."""


@dataclass(frozen=True)
class CommitOptions:
    """What is said of a commit.

    `branch` None means HEAD's; a new branch starts without a parent unless `parent`, a revision, is given. `time_ns`
    counts from 1970 UTC; so does `recorded_ns`, the time now, where the commit's own is another. `tag` must be new.
    `preset` None means the repository's. Without `allow_empty` a commit that changes nothing is refused.
    """

    time_ns: int
    offset_min: int = 0
    author: str = ""
    message: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    step: int | None = None
    epoch: int | None = None
    branch: str | None = None
    tag: str | None = None
    parent: str | None = None
    allow_pickle: bool = False
    preset: str | None = None
    recorded_ns: int | None = None
    allow_empty: bool = True


@dataclass(frozen=True)
class CommitResult:
    """The new commit and what it cost: raw bytes given, bytes of packs added, objects new and known."""

    id: str
    branch: str
    parents: tuple[str, ...]
    raw_bytes: int
    pack_bytes: int
    new_objects: int
    known_objects: int


@dataclass(frozen=True)
class _Plan:
    """Where a commit goes: refs to move are checked before anything is stored."""

    branch: str
    tip: bytes | None
    parents: tuple[bytes, ...]
    metrics: tuple[Metric, ...]
    step: int | None
    epoch: int | None


def store(
    repository: Repository,
    drafts: Mapping[str, Draft],
    options: CommitOptions,
    progress: Progress,
    *,
    bare: bool,
    check: Callable[[], None] = lambda: None,
    series: Draft | None = None,
    workers: Workers | None = None,
    remembered: Remembered | None = None,
) -> CommitResult:
    """Store drafts and publish their commit; `check` may still refuse once all bytes have been read.

    `bare` says that the only component is the whole state, `series` holds the metrics logged since the parent,
    `workers` are the threads to use in place of the repository's, `remembered` chunks that are still in memory. Raises
    `InvalidInput`, `Conflict` where another writer moved the branch first, `StoreFull`, `SaveFailed`.
    """
    commits = repository.commits()
    plan = _plan(repository, commits, options)
    preset = repository.preset if options.preset is None else preset_named(options.preset)
    earlier = _earlier(repository, commits, plan.parents, drafts) if preset.deltas else {}
    check_room(repository, [draft for name, draft in drafts.items() if name not in earlier])
    recorded_ns = options.time_ns if options.recorded_ns is None else options.recorded_ns
    with Transaction(repository.store, preset, remembered, workers) as transaction:
        trees = ingest(drafts, transaction, transaction.workers, progress, earlier)
        curve = None if series is None else ingest({META: series}, transaction, transaction.workers, SILENT)[META]
        check()
        if not options.allow_empty:
            _check_changed(repository, commits, plan, trees)
        commit = Commit(
            components=tuple(Component(name, tree) for name, tree in trees.items()),
            parents=plan.parents,
            time_ns=options.time_ns,
            offset_min=options.offset_min,
            author=options.author,
            message=options.message,
            metrics=plan.metrics,
            step=plan.step,
            epoch=plan.epoch,
            series=curve,
            bare=bare,
        )
        id = transaction.put_meta(Kind.COMMIT, encode(commit))
        whole = whole_check(repository, commits, plan.parents)
        written = transaction.publish("commit", recorded_ns, list(_moves(plan, options, id)), whole)
    if written.pack_bytes >= _MUCH_BYTES:
        repository.store.keep_reserve()
    return CommitResult(
        id=id.hex(),
        branch=plan.branch,
        parents=tuple(parent.hex() for parent in plan.parents),
        raw_bytes=sum(map(raw_bytes, drafts.values())),
        pack_bytes=written.pack_bytes,
        new_objects=written.new_objects,
        known_objects=written.known_objects,
    )


def _earlier(
    repository: Repository, commits: Commits, parents: tuple[bytes, ...], drafts: Mapping[str, Draft]
) -> dict[str, Tree]:
    """For each component the tree whose chunks may serve as bases: the parent's, or without one the most alike.

    A tree that cannot be read serves nobody and stops nothing.
    """
    readable: dict[bytes, Commit] = {}
    for tip in parents or commits.branches.values():
        with suppress(Format, Integrity):
            readable[tip] = commits.read_commit(tip)
    newest = sorted(readable.values(), key=lambda commit: -commit.time_ns)[:LIKE_AT_MOST]

    def candidates() -> Iterator[Candidate]:
        for commit in newest:
            for component in commit.components:
                if component.name in drafts:
                    with suppress(Format, Integrity):
                        yield Candidate(component.name, read_tree(repository.store.objects, component.tree))

    return earlier_versions(candidates(), drafts, parents=bool(parents))


def check_room(repository: Repository, unlike: Iterable[Draft]) -> None:
    """Raise `StoreFull` where nothing fits; warn where `unlike`, drafts without earlier versions, may be too much."""
    folder = repository.store.layout.tmp
    durable.check_room(folder, _LEAST_ROOM_BYTES, _LEAST_FILES)
    new = sum(map(raw_bytes, unlike))
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    if free < _LIKELY_SHARE * new:
        text = f"{free:,} bytes are free and {new:,} are to be stored: this commit may not fit"
        warnings.warn(text, CkstoreWarning, stacklevel=2)


def _check_changed(repository: Repository, commits: Commits, plan: _Plan, trees: Mapping[str, bytes]) -> None:
    """Raise `InvalidInput` where the branch's tip holds the same, all of it, and the same is said of it."""
    if plan.tip is None or len(plan.parents) != 1:
        return
    parent = commits.read_commit(plan.parents[0])
    said = (plan.step, plan.epoch, plan.metrics)
    whole = not repository.absent().get(plan.parents[0])
    same = whole and said in ((parent.step, parent.epoch, parent.metrics), (None, None, ()))
    if same and {entry.name: entry.tree for entry in parent.components} == dict(trees):
        raise InvalidInput(
            f"nothing has changed since {plan.parents[0].hex()[:12]}", hint="--allow-empty commits it all the same"
        )


def _moves(plan: _Plan, options: CommitOptions, id: bytes) -> Iterator[RefMove]:
    yield RefMove(HEADS + plan.branch, plan.tip, id)
    if options.tag is not None:
        yield RefMove(TAGS + options.tag, None, id)


def _plan(repository: Repository, commits: Commits, options: CommitOptions) -> _Plan:
    bits = {_text("a metric's name", name): float_bits(_number(name, value)) for name, value in options.metrics.items()}
    metrics = tuple(Metric(name, bits[name]) for name in sorted(bits))
    step, epoch = _count("step", options.step), _count("epoch", options.epoch)
    _text("message", options.message)
    _text("author", options.author)
    if options.tag is not None:
        check_ref_name(options.tag, "tag")
        if options.tag in commits.tags:
            raise InvalidInput(f"the tag {options.tag!r} is taken", hint="choose another name")
    branch = options.branch
    if branch is None:
        if commits.head_name is None:
            raise InvalidInput("HEAD is on no branch", hint="name one: branch=..., or `ckstore checkout BRANCH` first")
        branch = commits.head_name.removeprefix(HEADS)
    check_ref_name(branch, "branch")
    tip = commits.branches.get(branch)
    parents = () if tip is None else (tip,)
    if options.parent is not None:
        parents = (repository.resolve(options.parent, options.time_ns)[0],)
        if tip is not None and parents != (tip,):
            raise InvalidInput(
                f"the branch {branch!r} is at {tip.hex()[:12]}, not at the parent {options.parent!r}",
                hint="leave parent out, or give a new branch",
            )
    return _Plan(branch, tip, parents, metrics, step, epoch)


def _text(what: str, text: object) -> str:
    """`text` as a str that can be stored. Raises `InvalidInput`."""
    try:
        if not isinstance(text, str):
            raise TypeError
        return text.encode().decode()
    except (TypeError, UnicodeEncodeError):
        raise InvalidInput(f"{what} is {text!r}, which is no text", hint="give a str without lone surrogates") from None


def _count(what: str, value: object) -> int | None:
    """A count, whatever integer type it has. Raises `InvalidInput`."""
    try:
        count = None if value is None else int(index(value))  # type: ignore[arg-type]
    except (TypeError, RuntimeError):
        raise InvalidInput(f"the {what} is {value!r}, which is no count", hint="give an int from 0 up") from None
    if count is not None and not 0 <= count < 1 << 63:
        raise InvalidInput(f"the {what} {count} is out of range", hint="give a count from 0 up")
    return count


def _number(name: str, value: object) -> float:
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise InvalidInput(f"the metric {name!r} is {value!r}, which is no number") from None
