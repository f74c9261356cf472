"""A commit's state as a new file: safetensors, streamed chunk by chunk, or what torch.save writes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from ckstore import durable
from ckstore.checkpoint.state import LoadOptions, closest, load, structure
from ckstore.errors import Format, InvalidInput
from ckstore.files.dtypes import ITEM_SIZE
from ckstore.files.safetensors_header import Described, new_header
from ckstore.objects.commit import FILES
from ckstore.objects.run import TreeRuns
from ckstore.objects.tree import (
    ATTRIBUTES,
    Alias,
    Container,
    Encoded,
    Node,
    RngState,
    Sparse,
    Tensor,
    Wrapper,
    dotted,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from ckstore.objects.commit import Commit
    from ckstore.objects.structure import Structure
    from ckstore.progress import Progress
    from ckstore.repository import Repository

FORMATS = ("pt", "safetensors")

_SHOWN = 10
_MADE_OF_TENSORS = (Sparse, Wrapper, RngState, Encoded)
"""What holds tensors that mean nothing by themselves."""


@dataclass(frozen=True)
class Converted:
    """A new file, and how many values it could not take because they are no tensors, with some of their paths."""

    path: Path
    size_bytes: int
    left_out: int = 0
    left_out_paths: tuple[str, ...] = ()


class Picked(NamedTuple):
    """A tensor that goes into the file."""

    described: Described
    structure: Structure
    ordinal: int


def convert(
    repository: Repository,
    commit: Commit,
    output: Path,
    format: str,
    only: Sequence[str] | None,
    progress: Progress,
    check: Callable[[Path], None] = lambda _: None,
) -> Converted:
    """Write what `only` selects of a commit's state (None: all of it) to the new file `output`.

    In `safetensors` go tensors alone, each once for every name it has, read and written a few MiB at a time; `pt`
    holds everything, and needs the state in memory. `output` appears whole, once `check` has seen the file under
    another name. Raises `InvalidInput` for a format that is not known or cannot take the state; `Integrity`, `Format`.
    """
    if format not in FORMATS:
        raise InvalidInput(f"{format!r} is no format to write", hint=f"use one of {', '.join(FORMATS)}")
    left_out: list[str] = []
    if format == "pt":
        write = _pt(selected_state(repository, commit, only))
    else:
        picked, left_out = picked_tensors(repository, commit, only)
        write = _safetensors(repository, picked, progress)
    durable.make_folder(output.parent)
    part = output.with_name(f".ckstore-{os.urandom(8).hex()}.part")
    try:
        write(part)
        check(part)
        made = Converted(output, part.stat().st_size, len(left_out), tuple(left_out[:_SHOWN]))
        durable.rename(part, output)
        durable.sync_folder(output.parent)
    except BaseException:
        durable.unlink(part)
        raise
    return made


def selected_state(repository: Repository, commit: Commit, only: Sequence[str] | None) -> object:
    """What a converted file holds: the state, or the only component of it where that is all that was asked for."""
    state = load(repository, commit, LoadOptions(only))
    names = [entry.name for entry in commit.components]
    from_files = FILES in names
    if not commit.bare and isinstance(state, dict) and len(state) == 1 and (only is not None or from_files):
        return next(iter(state.values()))
    return state


def _pt(state: object) -> Callable[[Path], None]:
    """Writes the state to a new file."""
    from ckstore.torch.save import save  # torch: only where it is asked for

    return partial(save, state)


def _safetensors(repository: Repository, picked: Sequence[Picked], progress: Progress) -> Callable[[Path], None]:
    """Writes the tensors to a new file. Raises `InvalidInput` at once where the format cannot take them."""
    header, order = new_header([one.described for one in picked])

    def write(part: Path) -> None:
        size_bytes = len(header) + sum(one.described.size_bytes for one in picked)
        durable.check_room(part.parent, size_bytes)
        progress.start("writing", size_bytes)
        with durable.create(part) as out:
            for view in chain([memoryview(header)], _bytes(repository, [picked[number] for number in order])):
                out.write(view)
                progress.advance(view.nbytes)
            out.sync()

    return write


def picked_tensors(
    repository: Repository, commit: Commit, only: Sequence[str] | None
) -> tuple[list[Picked], list[str]]:
    """The tensors that were asked for, by their names in the file, and the paths of what else was."""
    found: list[tuple[Structure, Node]] = []
    left_out: list[str] = []
    seen: list[str] = []
    for entry in commit.components:
        if entry.name == FILES:
            continue
        tree = structure(repository, commit, entry.name)
        seen += [tree.path(node.ordinal) for node in tree.nodes] if only is not None else []
        tensors, others = _sorted_out(tree, range(len(tree.nodes)) if only is None else tree.selected(only))
        found += [(tree, node) for node in tensors]
        left_out += [tree.path(node.ordinal) for node in others]
    if not found:
        what = "the commit holds no tensors" if only is None else f"no tensor matches {', '.join(only)}"
        raise InvalidInput(what, hint=closest(only, seen) if only else "use --format pt")
    several = len({tree.component for tree, _ in found}) > 1
    return [Picked(_described(tree, node, several=several), tree, node.ordinal) for tree, node in found], left_out


def _sorted_out(tree: Structure, wanted: set[int] | range) -> tuple[list[Node], list[Node]]:
    """Those of the wanted entries that are tensors by themselves, and those that are none and hold no others."""
    tensors: list[Node] = []
    others: list[Node] = []
    inside = range(0)
    for node in tree.nodes:
        value = node.entry.value
        if node.ordinal in inside:
            continue
        if isinstance(value, _MADE_OF_TENSORS):
            inside = tree.below(node.ordinal)
            if any(ordinal in wanted for ordinal in inside):
                others.append(node)
        elif node.ordinal in wanted and not isinstance(value, Container):
            if isinstance(value, (Tensor, Alias)):
                tensors.append(node)
            elif ATTRIBUTES not in node.keys:
                others.append(node)
    return tensors, others


def _described(tree: Structure, node: Node, *, several: bool) -> Described:
    value = node.entry.value
    assert isinstance(value, (Tensor, Alias))
    path = tree.path(node.ordinal)
    if value.dtype not in ITEM_SIZE:
        raise InvalidInput(f"{path} is {value.dtype}, which safetensors has not", hint="use --format pt, or --only")
    if any(size < 0 for size in value.shape):
        raise Format(f"{path} claims the shape {value.shape}")
    name = dotted((tree.component, *node.keys) if several or not node.keys else node.keys)
    return Described(name, value.dtype, value.shape)


def _bytes(repository: Repository, picked: Sequence[Picked]) -> Iterator[memoryview]:
    """The bytes of tensors, one after another; each view is good until the next is asked for."""
    trees = dict.fromkeys(one.structure for one in picked)
    runs = {tree: TreeRuns(tree.tree, repository.store.objects) for tree in trees}
    for one in picked:
        value = one.structure.nodes[one.ordinal].entry.value
        assert isinstance(value, (Tensor, Alias))
        if value.strides is None:
            yield from _stored(one, value, runs[one.structure])
        else:
            yield _gathered(repository, one)


def _stored(one: Picked, value: Tensor | Alias, runs: TreeRuns) -> Iterator[memoryview]:
    """The bytes of a tensor that lies in one piece."""
    owner = one.structure.nodes[one.structure.owner(value, one.ordinal)].entry.value
    assert isinstance(owner, Tensor)
    run, start = runs.of_tensor(owner)
    if value.offset < 0 or value.offset + one.described.size_bytes > owner.data.length:
        raise Format(f"{one.structure.path(one.ordinal)} reaches beyond its span")
    yield from run.read(start + value.offset, one.described.size_bytes)


def _gathered(repository: Repository, one: Picked) -> memoryview:
    """The bytes of a tensor in row-major order, wherever its elements lie; all of them in memory."""
    from ckstore.torch.lazy import LazyTensor
    from ckstore.torch.tensors import row_major_bytes

    return row_major_bytes(LazyTensor(one.structure, repository.store.objects, one.ordinal).load())
