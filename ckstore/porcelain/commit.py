"""commit: store a state or a file as a new commit of a branch."""

from __future__ import annotations

import mmap
import os
import stat
from bisect import bisect_right
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from operator import index
from typing import TYPE_CHECKING

from ckstore.codec.preset import preset_named
from ckstore.digest import Kind
from ckstore.errors import Conflict, Format, Integrity, InvalidInput, NotFound
from ckstore.graph.revision import check_ref_name
from ckstore.objects.commit import FILES, Commit, Component, Metric
from ckstore.objects.draft import Draft, DraftBlob, DraftTensor
from ckstore.objects.encoding import encode, float_bits
from ckstore.objects.plain import to_key
from ckstore.objects.reader import read_tree
from ckstore.objects.tree import Dict, File, Segment, Tree
from ckstore.progress import SILENT
from ckstore.storage.ingest import ingest
from ckstore.storage.record import HEADS, TAGS, RefMove
from ckstore.storage.transaction import Transaction
from ckstore.storage.versions import Versions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from ckstore.files.parsed import ParsedFile
    from ckstore.objects.leaf import Blob
    from ckstore.progress import Progress
    from ckstore.repository import Commits, Repository

_LIKE_AT_MOST = 8
"""Branches that a new one without a parent is compared with, the newest first."""

BARE = "state"
"""The component of a state that is no dictionary of components."""


@dataclass(frozen=True)
class CommitOptions:
    """What is said of a commit.

    `branch` None means HEAD's; a new branch starts without a parent unless `parent`, a revision, is given.
    `time_ns` counts from 1970 UTC. `tag` must be new. `preset` None means the repository's.
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


def commit_state(
    repository: Repository, state: object, options: CommitOptions, progress: Progress = SILENT
) -> CommitResult:
    """Commit a nested state. A dictionary with str keys gives a component for each entry.

    Copies nothing on the CPU; the state must not change until this returns. Raises `InvalidInput` for what
    cannot be kept, `Conflict` where another writer moved the branch first, `StoreFull`, `SaveFailed`.
    """
    from ckstore.torch.flatten import flatten  # torch: only where tensors are at hand

    bare = not (type(state) is dict and state and all(_is_component_name(name) for name in state))
    parts: Mapping[str, object] = {BARE: state} if bare or not isinstance(state, dict) else state
    drafts = {name: flatten(value, name, allow_pickle=options.allow_pickle) for name, value in parts.items()}
    return _commit(repository, drafts, options, progress, bare=bare)


def commit_file(
    repository: Repository, path: Path, options: CommitOptions, progress: Progress = SILENT, *, opaque: bool = False
) -> CommitResult:
    """Commit a checkpoint file, cut at its tensors' bounds; it comes back byte for byte.

    With `opaque`, as plain bytes. Raises `InvalidInput`, `Format` for a damaged file; else as `commit_state`.
    """
    from ckstore.files.detect import parse  # the parsers: no other command should wait for them

    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise NotFound(f"no file {path}", hint="check the path") from None
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from error
    with file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise InvalidInput(f"{path} is no regular file", hint="write it to a file first")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if about.st_size else b""
        data = memoryview(mapped)
        parsed = parse(path.name, data, opaque=opaque)
        if any(not _is_component_name(name) for name in parsed.components):
            parsed = parse(path.name, data, opaque=True)
        drafts = {**parsed.components, FILES: _files_draft(path.name, about, data, parsed)}

        def unchanged() -> None:
            now = os.stat(file.fileno())
            if (now.st_mtime_ns, now.st_size) != (about.st_mtime_ns, about.st_size):
                raise Conflict(f"{path} changed while it was read", hint="commit it again once it is complete")

        return _commit(repository, drafts, options, progress, bare=False, check=unchanged)


def _is_component_name(name: object) -> bool:
    return type(name) is str and bool(name) and not name.startswith("@") and name.isprintable()


def _files_draft(name: str, about: os.stat_result, data: memoryview, parsed: ParsedFile) -> Draft:
    names = tuple(dict.fromkeys(segment.component for segment in parsed.segments if segment.length))
    numbers = {component: number for number, component in enumerate(names)}
    owners = {component: _owners(parsed.components[component]) for component in names}
    segments = tuple(
        Segment(s.gap, numbers[s.component], owners[s.component][s.span], s.start, s.length)
        if s.length
        else Segment(s.gap, 0, 0, 0, 0)
        for s in parsed.segments
    )

    def make(blob: Blob) -> File:
        return File(data.nbytes, about.st_mode & 0o7777, about.st_mtime_ns, blob, names, segments)

    ends = list(accumulate(stop - start for start, stop in parsed.gaps))
    gaps = DraftBlob(ends[-1] if ends else 0, partial(_gap_bytes, data, parsed.gaps, ends), make)
    return Draft([(None, Dict("dict", 1)), (to_key(name), gaps)])  # type: ignore[list-item]


def _owners(draft: Draft) -> dict[int, int]:
    """The ordinal of the first entry on each span."""
    owners: dict[int, int] = {}
    for ordinal, (_, value) in enumerate(draft.entries):
        if isinstance(value, DraftTensor):
            owners.setdefault(value.span, ordinal)
    return owners


def _gap_bytes(data: memoryview, gaps: list[tuple[int, int]], ends: list[int], start: int, stop: int) -> memoryview:
    """Bytes `start` to `stop` of the gaps put end to end; no copy where they lie in one gap."""
    number = bisect_right(ends, start)
    parts: list[memoryview] = []
    while start < stop:
        first, last = gaps[number]
        offset = start - (ends[number] - (last - first))
        count = min(stop - start, last - first - offset)
        parts.append(data[first + offset : first + offset + count])
        start += count
        number += 1
    return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))


@dataclass(frozen=True)
class _Plan:
    """Where a commit goes: refs to move are checked before anything is stored."""

    branch: str
    tip: bytes | None
    parents: tuple[bytes, ...]
    metrics: tuple[Metric, ...]
    step: int | None
    epoch: int | None


def _commit(
    repository: Repository,
    drafts: Mapping[str, Draft],
    options: CommitOptions,
    progress: Progress,
    *,
    bare: bool,
    check: Callable[[], None] = lambda: None,
) -> CommitResult:
    """Store drafts and publish their commit; `check` may still refuse once all bytes have been read."""
    commits = repository.commits()
    plan = _plan(repository, commits, options)
    preset = repository.preset if options.preset is None else preset_named(options.preset)
    earlier = _earlier(repository, commits, plan.parents, drafts) if preset.deltas else {}
    store = repository.store
    with Transaction(store, preset) as transaction:
        trees = ingest(drafts, transaction, store.workers, progress, earlier)
        check()
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
            bare=bare,
        )
        id = transaction.put_meta(Kind.COMMIT, encode(commit))
        written = transaction.publish("commit", options.time_ns, list(_moves(plan, options, id)))
    return CommitResult(
        id=id.hex(),
        branch=plan.branch,
        parents=tuple(parent.hex() for parent in plan.parents),
        raw_bytes=sum(span.length for draft in drafts.values() for span in draft.spans),
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
    newest = sorted(readable.values(), key=lambda commit: -commit.time_ns)[:_LIKE_AT_MOST]
    found: dict[str, Tree] = {}
    best: dict[str, int] = {}
    for commit in newest:
        for component in commit.components:
            draft = drafts.get(component.name)
            if draft is None:
                continue
            try:
                tree = read_tree(repository.store.objects, component.tree)
                likeness = 1 if parents else Versions(tree).likeness(draft)
            except (Format, Integrity):
                continue
            if likeness > best.get(component.name, 0):
                found[component.name], best[component.name] = tree, likeness
    return found


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
