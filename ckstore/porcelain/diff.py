"""diff: what became of a checkpoint, from one commit to another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ckstore.checkpoint.described import described
from ckstore.checkpoint.file_changes import ChangedFile, changed_files
from ckstore.checkpoint.state import structure
from ckstore.checkpoint.value_text import side_by_side, value_text
from ckstore.errors import InvalidInput
from ckstore.graph.placement import grid, is_measurable
from ckstore.graph.sums import Change, change
from ckstore.graph.tree_diff import Verdict, tree_diff
from ckstore.objects.commit import FILES
from ckstore.objects.structure import nearest
from ckstore.progress import SILENT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ckstore.checkpoint.described import Described
    from ckstore.graph.history import CommitInfo
    from ckstore.graph.placement import Place
    from ckstore.graph.sums import PairSums
    from ckstore.graph.tree_diff import TensorPair, TreeDiff
    from ckstore.objects.structure import Structure
    from ckstore.progress import Progress
    from ckstore.repository import Repository

_FIRST = ("config", "environment")
"""Components that say how a run was set up: they come before the others."""


@dataclass(frozen=True)
class DiffOptions:
    """What to compare.

    `now_ns` counts from 1970 UTC, for revisions such as `@2h`. `only`: patterns over dotted paths (`model.*`) and the
    names of committed files; None: all. `stat` asks for the figures of every tensor that changed, which reads it.
    """

    now_ns: int
    only: Sequence[str] | None = None
    stat: bool = False


@dataclass(frozen=True)
class TensorType:
    """`size_bytes` counts its elements, as if each had bytes of its own."""

    dtype: str
    shape: tuple[int, ...]
    size_bytes: int


@dataclass(frozen=True)
class TensorAt:
    """A tensor that only one of the commits has. The rest as in TensorType."""

    path: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int


@dataclass(frozen=True)
class RetypedTensor:
    """A tensor whose dtype or shape is another."""

    path: str
    before: TensorType
    after: TensorType


@dataclass(frozen=True)
class ChangedTensor:
    """A tensor with other elements; `change` holds the figures, None unless `stat` was asked for.

    It is None also where elements of the tensor share bytes in another way than by `expand`; where two such tensors
    lie differently they count as changed. The rest as in TensorType.
    """

    path: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int
    change: Change | None


@dataclass(frozen=True)
class ChangedValue:
    """A value that differs, as text of one line; None where the commit has it not."""

    path: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class ChangedMetric:
    """A metric of either commit, changed or not; None where the commit has it not. `difference` is after - before."""

    name: str
    before: float | None
    after: float | None
    difference: float | None


@dataclass(frozen=True)
class ComponentDiff:
    """What became of one component.

    `unchanged` counts the tensors with the same bits, `rearranged` those among them whose strides, sharing or flags
    are other ones. Where trees differ (`is_same_tree`) and nothing is listed, only the order of entries is another.
    """

    name: str
    in_before: bool
    in_after: bool
    is_same_tree: bool
    added: tuple[TensorAt, ...]
    removed: tuple[TensorAt, ...]
    retyped: tuple[RetypedTensor, ...]
    changed: tuple[ChangedTensor, ...]
    unchanged: int
    rearranged: int
    values: tuple[ChangedValue, ...]

    @property
    def differs(self) -> bool:
        """Whether any tensor or value does."""
        return bool(self.added or self.removed or self.retyped or self.changed or self.values)


@dataclass(frozen=True)
class DiffResult:
    """Two commits side by side.

    Components are in the newer commit's order, `config` and `environment` first, then those it has lost.
    `compared_bytes` counts the raw bytes of the tensors of both commits, those at the same path once (the larger of
    the two) and those that share their bytes once; `differing_bytes` are those of them that differ, by portions of at
    most a chunk (1 MiB): all of a tensor that only one commit has, or that is retyped.
    """

    before: CommitInfo
    after: CommitInfo
    metrics: tuple[ChangedMetric, ...]
    components: tuple[ComponentDiff, ...]
    files: tuple[ChangedFile, ...]
    compared_bytes: int
    differing_bytes: int

    @property
    def differing_share(self) -> float:
        """Share of the compared bytes that differ, from 0 to 1."""
        return self.differing_bytes / self.compared_bytes if self.compared_bytes else 0.0

    @property
    def differs(self) -> bool:
        """Whether any tensor, value or file does."""
        return bool(self.files) or any(component.differs for component in self.components)


def diff(
    repository: Repository, before: str, after: str, options: DiffOptions, progress: Progress = SILENT
) -> DiffResult:
    """Compare two commits path by path.

    Without `stat` only those chunks are read whose ids leave it open whether a tensor changed: of small tensors, which
    share chunks, and of those that lie otherwise in memory. With it every changed tensor is read once, on all threads,
    in little memory; one whose elements do not lie side by side is in memory while it is compared. Raises `NoRevision`,
    `InvalidInput` (also where `only` matches nothing), `Integrity`, `Format`.
    """
    commits = repository.commits()
    old, new = (described(commits, revision, options.now_ns) for revision in (before, after))
    files = changed_files(repository, old.commit, new.commit, options.only, progress)
    compared = [_compare(repository, old, new, name, options) for name in _names(old, new)]
    if options.only is not None and not any(one.is_selected for one in compared) and not files:
        raise InvalidInput(f"nothing matches {', '.join(options.only)}", hint=_hint(options.only, compared))
    sums = _sums(repository, compared, options, progress)
    shown = [one for one in compared if one.is_selected or options.only is None]
    compared_bytes, differing_bytes = _bytes(shown, sums)
    return DiffResult(
        before=old.info,
        after=new.info,
        metrics=tuple(_metrics(old.info.metrics, new.info.metrics)),
        components=tuple(_component(repository, one, sums, options) for one in shown),
        files=files,
        compared_bytes=compared_bytes,
        differing_bytes=differing_bytes,
    )


class _Compared(NamedTuple):
    """A component, matched."""

    name: str
    before: Structure | None
    after: Structure | None
    is_same_tree: bool
    is_selected: bool
    found: TreeDiff

    def key(self, pair: TensorPair) -> _Key:
        """Equal for pairs that show the same bytes in the same way."""
        return self.name, pair.before.key, pair.after.key


_Key = tuple[str, tuple[object, ...], tuple[object, ...]]


def _names(before: Described, after: Described) -> list[str]:
    """The components of both commits in the order they are shown."""
    names = dict.fromkeys(entry.name for one in (after, before) for entry in one.commit.components)
    return sorted((name for name in names if name != FILES), key=lambda name: name not in _FIRST)


def _compare(repository: Repository, before: Described, after: Described, name: str, options: DiffOptions) -> _Compared:
    ids = [{entry.name: entry.tree for entry in one.commit.components}.get(name) for one in (before, after)]
    old = None if ids[0] is None else structure(repository, before.commit, name)
    new = old if ids[0] == ids[1] else None if ids[1] is None else structure(repository, after.commit, name)
    if options.only is None:
        return _Compared(name, old, new, ids[0] == ids[1], True, tree_diff(old, new))
    selected = tuple(set() if one is None else one.selected(options.only) for one in (old, new))
    found = tree_diff(old, new, (selected[0], selected[1]))
    return _Compared(name, old, new, ids[0] == ids[1], any(selected), found)


def _hint(only: Sequence[str], compared: Iterable[_Compared]) -> str | None:
    sides = [side for one in compared for side in (one.before, one.after) if side is not None]
    paths = dict.fromkeys(side.path(node.ordinal) for side in sides for node in side.nodes)
    return nearest(only[0], list(paths)) if only else "leave only out to compare all"


def _sums(
    repository: Repository, compared: Sequence[_Compared], options: DiffOptions, progress: Progress
) -> dict[_Key, PairSums | None]:
    """The sums over each pair of tensors that ids do not show to be the same; those that share bytes are read once."""
    pairs = {
        one.key(pair): (pair.before, pair.after)
        for one in compared
        for pair in one.found.pairs
        if pair.verdict is not Verdict.SAME
    }
    if not pairs:
        return {}
    from ckstore.checkpoint.measure import pair_sums  # numpy

    progress.start("comparing", sum(after.raw_bytes for _, after in pairs.values()))
    return dict(zip(pairs, pair_sums(repository.store, list(pairs.values()), progress, stat=options.stat), strict=True))


def _has_changed(one: _Compared, pair: TensorPair, sums: Mapping[_Key, PairSums | None]) -> bool:
    if pair.verdict is Verdict.SAME:
        return False
    found = sums[one.key(pair)]
    return found is None or found.differing > 0


def _component(
    repository: Repository, one: _Compared, sums: Mapping[_Key, PairSums | None], options: DiffOptions
) -> ComponentDiff:
    found = one.found
    changed = [pair for pair in found.pairs if _has_changed(one, pair, sums)]
    kept = {pair.path for pair in changed}
    return ComponentDiff(
        name=one.name,
        in_before=one.before is not None,
        in_after=one.after is not None,
        is_same_tree=one.is_same_tree,
        added=tuple(TensorAt(path, place.dtype, place.shape, place.size_bytes) for path, place in found.added),
        removed=tuple(TensorAt(path, place.dtype, place.shape, place.size_bytes) for path, place in found.removed),
        retyped=tuple(RetypedTensor(pair.path, _type(pair.before), _type(pair.after)) for pair in found.retyped),
        changed=tuple(_changed(pair, sums[one.key(pair)], options) for pair in changed),
        unchanged=len(found.pairs) - len(changed),
        rearranged=sum(pair.is_rearranged and pair.path not in kept for pair in found.pairs),
        values=tuple(_values(repository, one)),
    )


def _type(place: Place) -> TensorType:
    return TensorType(place.dtype, place.shape, place.size_bytes)


def _changed(pair: TensorPair, sums: PairSums | None, options: DiffOptions) -> ChangedTensor:
    place, shape = pair.after, grid(pair.before, pair.after)
    figures = None
    if options.stat and sums is not None and is_measurable(shape, pair.before, pair.after):
        figures = change(sums, shape.repeats)
    return ChangedTensor(pair.path, place.dtype, place.shape, place.size_bytes, figures)


def _values(repository: Repository, one: _Compared) -> Iterator[ChangedValue]:
    reader = repository.store.objects
    for path, before, after in one.found.values:
        old = None if before is None or one.before is None else value_text(one.before, before, reader)
        new = None if after is None or one.after is None else value_text(one.after, after, reader)
        yield ChangedValue(path, *side_by_side(old, new))


def _metrics(before: Mapping[str, float], after: Mapping[str, float]) -> Iterator[ChangedMetric]:
    """All metrics by name."""
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        yield ChangedMetric(name, old, new, None if old is None or new is None else new - old)


def _bytes(compared: Sequence[_Compared], sums: Mapping[_Key, PairSums | None]) -> tuple[int, int]:
    """The bytes that were compared, and those of them that differ."""
    whole: dict[object, int] = {}
    differing: dict[object, int] = {}
    for one in compared:
        for pair in one.found.pairs:
            key = one.key(pair)
            whole[key] = max(pair.before.raw_bytes, pair.after.raw_bytes)
            if pair.verdict is not Verdict.SAME:
                found = sums[key]
                differing[key] = whole[key] if found is None else min(found.differing_bytes, whole[key])
        for retyped in one.found.retyped:
            alone = one.name, retyped.before.key, retyped.after.key
            whole[alone] = differing[alone] = max(retyped.before.raw_bytes, retyped.after.raw_bytes)
        for side, tensors in enumerate((one.found.removed, one.found.added)):
            for _, place in tensors:
                lone = one.name, side, place.key
                whole[lone] = differing[lone] = place.raw_bytes
    return sum(whole.values()), sum(differing.values())
