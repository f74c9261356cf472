"""show: what a commit holds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckstore.checkpoint.absent import absent
from ckstore.checkpoint.committed_files import committed_files
from ckstore.checkpoint.described import described
from ckstore.checkpoint.state import structure
from ckstore.errors import InvalidInput
from ckstore.graph.placement import place
from ckstore.graph.tree_diff import entries, is_value
from ckstore.objects.commit import FILES
from ckstore.objects.leaf import Chunks
from ckstore.objects.structure import nearest
from ckstore.objects.tree import ATTRIBUTES, Alias, File, Tensor, Whole, check_run, spans, split_ids
from ckstore.progress import SILENT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckstore.graph.history import CommitInfo
    from ckstore.graph.placement import Place
    from ckstore.graph.sums import Statistics
    from ckstore.objects.commit import Commit
    from ckstore.objects.structure import Structure
    from ckstore.progress import Progress
    from ckstore.repository import Repository
    from ckstore.storage.location import Location
    from ckstore.storage.view import View


@dataclass(frozen=True)
class ShowOptions:
    """What to show beside the commit itself.

    `now_ns` counts from 1970 UTC, for revisions such as `@2h`. `tensors` lists them, `stat` reads them for their
    figures and lists them too; both of those that `only`, patterns over dotted paths (`model.*`), selects (None: all).
    """

    now_ns: int
    tensors: bool = False
    stat: bool = False
    only: Sequence[str] | None = None


@dataclass(frozen=True)
class ShownTensor:
    """A tensor; `size_bytes` counts its elements, as if each had bytes of its own.

    `shared_with` is the path of the tensor before it on the same storage. `statistics` is None unless asked for, and
    for elements that are no numbers or share bytes among themselves in another way than by `expand`.
    """

    path: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int
    shared_with: str | None
    statistics: Statistics | None


@dataclass(frozen=True)
class ShownComponent:
    """A component; `@files` is what no tensor holds of the committed files.

    A sparse tensor, or a generator, counts as its parts; `values` are leaves, sets and empty containers. `tensor_bytes`
    are raw, every storage once; `raw_bytes` has the bytes of long values and of files with them. `stored_bytes` are
    those of the chunks as they lie in packs, each once and without the bases of deltas. `missing_chunks` are named but
    in no pack.
    """

    name: str
    tensors: int
    values: int
    tensor_bytes: int
    raw_bytes: int
    chunks: int
    stored_bytes: int
    missing_chunks: int


@dataclass(frozen=True)
class ShownFile:
    """A committed file."""

    name: str
    size_bytes: int


@dataclass(frozen=True)
class ShowResult:
    """A commit: what is said of it, its components in the state's order, its files, and the tensors asked for.

    `stored_bytes` is as of a component; what several components share counts once. Components whose data is not here
    are only named, in `commit.absent`.
    """

    commit: CommitInfo
    components: tuple[ShownComponent, ...]
    files: tuple[ShownFile, ...]
    tensors: tuple[ShownTensor, ...]
    stored_bytes: int

    @property
    def raw_bytes(self) -> int:
        """Raw bytes of all components."""
        return sum(component.raw_bytes for component in self.components)


def show(repository: Repository, revision: str, options: ShowOptions, progress: Progress = SILENT) -> ShowResult:
    """Describe one commit. Reads trees, and with `stat` the tensors: on all threads, in little memory.

    A tensor whose elements do not lie side by side is in memory while it is measured. Raises `NoRevision`,
    `InvalidInput` (also where `only` matches nothing), `Integrity`, `Format`.
    """
    found = described(repository.commits(), revision, options.now_ns)
    gone = absent(repository, found.commit)
    names = [entry.name for entry in found.commit.components if entry.name not in gone]
    trees = [structure(repository, found.commit, name) for name in names]
    places = repository.store.ask(lambda view: _places(view, trees))
    listed = list(_listed(trees, options))
    return ShowResult(
        commit=replace(found.info, absent=tuple(gone)),
        components=tuple(_component(tree, places) for tree in trees),
        files=() if FILES in gone else tuple(_files(repository, found.commit)),
        tensors=_tensors(repository, listed, options, progress),
        stored_bytes=sum(at.frame.stored_length for at in places.values() if at is not None),
    )


def _chunks(tree: Structure) -> set[bytes]:
    """All chunks that a component names."""
    found = {id for slab in tree.tree.slabs for id in split_ids(slab.ids)}
    for node in tree.nodes:
        found.update(spans(node.entry.value))
    return found


def _places(view: View, trees: Sequence[Structure]) -> dict[bytes, Location | None]:
    """Where every chunk lies."""
    return {id: view.locate(id) for tree in trees for id in _chunks(tree)}


def _component(tree: Structure, places: dict[bytes, Location | None]) -> ShownComponent:
    values = [tree.nodes[ordinal] for ordinal in entries(tree)]
    lengths = [slab.length for slab in tree.tree.slabs]
    payloads: list[int] = []
    for node in tree.nodes:
        value = node.entry.value
        data = value.gaps if isinstance(value, File) else getattr(value, "data", None)
        if isinstance(data, (Whole, Chunks)):
            check_run(data.length, data.ids, tree.tree.chunk_size)
            (lengths if isinstance(data, Whole) else payloads).append(data.length)
    located = [places[id] for id in _chunks(tree)]
    return ShownComponent(
        name=tree.component,
        tensors=sum(isinstance(node.entry.value, (Tensor, Alias)) for node in values),
        values=sum(is_value(node.entry.value) and ATTRIBUTES not in node.keys for node in values),
        tensor_bytes=sum(lengths),
        raw_bytes=sum(lengths) + sum(payloads),
        chunks=len(located),
        stored_bytes=sum(at.frame.stored_length for at in located if at is not None),
        missing_chunks=located.count(None),
    )


def _files(repository: Repository, commit: Commit) -> Iterator[ShownFile]:
    found = committed_files(repository, commit)
    for name, file in () if found is None else found.files.items():
        yield ShownFile(name, file.size)


def _listed(trees: Sequence[Structure], options: ShowOptions) -> Iterator[tuple[Structure, int]]:
    """The tensors that were asked for, by the ordinals of their entries."""
    matched = False
    states = [tree for tree in trees if tree.component != FILES]
    for tree in states:
        wanted = None if options.only is None else tree.selected(options.only)
        matched = matched or wanted is None or bool(wanted)
        for node in tree.nodes if options.tensors or options.stat else ():
            if isinstance(node.entry.value, (Tensor, Alias)) and (wanted is None or node.ordinal in wanted):
                yield tree, node.ordinal
    if options.only is not None and not matched:
        paths = [tree.path(node.ordinal) for tree in states for node in tree.nodes]
        hint = nearest(options.only[0], paths) if options.only else "leave only out to show all"
        raise InvalidInput(f"nothing matches {', '.join(options.only)}", hint=hint)


def _tensors(
    repository: Repository, listed: Sequence[tuple[Structure, int]], options: ShowOptions, progress: Progress
) -> tuple[ShownTensor, ...]:
    placed = [(tree, ordinal, place(tree, ordinal)) for tree, ordinal in listed]
    figures: dict[object, Statistics | None] = {}
    if options.stat and placed:
        figures = _statistics(repository, {(tree.component, one.key): one for tree, _, one in placed}, progress)
    return tuple(
        ShownTensor(
            path=tree.path(ordinal),
            dtype=one.dtype,
            shape=one.shape,
            size_bytes=one.size_bytes,
            shared_with=tree.path(one.owner) if one.owner != ordinal else None,
            statistics=figures.get((tree.component, one.key)),
        )
        for tree, ordinal, one in placed
    )


def _statistics(
    repository: Repository, tensors: dict[object, Place], progress: Progress
) -> dict[object, Statistics | None]:
    """The figures of tensors; each of those that share the same bytes in the same way is read once."""
    from ckstore.checkpoint.measure import figures  # numpy

    progress.start("reading", sum(one.raw_bytes for one in tensors.values()))
    return figures(repository.store, tensors, progress)
