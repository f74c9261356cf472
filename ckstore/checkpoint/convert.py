"""A commit's state as a new file: safetensors, streamed chunk by chunk, or what torch.save writes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ckstore import durable
from ckstore.checkpoint.state import LoadOptions, load, structure
from ckstore.errors import InvalidInput
from ckstore.files.dtypes import ITEM_SIZE
from ckstore.files.safetensors_header import Described, new_header
from ckstore.objects.commit import FILES
from ckstore.objects.run import TreeRuns
from ckstore.objects.structure import nearest
from ckstore.objects.tree import ATTRIBUTES, Alias, Encoded, Node, RngState, Sparse, Tensor, Wrapper, children, dotted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
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
) -> Converted:
    """Write what `only` selects of a commit's state (None: all of it) to the new file `output`.

    In `safetensors` go tensors alone, each once for every name it has, read and written a few MiB at a time; `pt`
    holds everything, and needs the state in memory. `output` appears whole. Raises `InvalidInput` for a format that is
    not known or cannot take the state; `Integrity`.
    """
    if format not in FORMATS:
        raise InvalidInput(f"{format!r} is no format to write", hint=f"use one of {', '.join(FORMATS)}")
    durable.make_folder(output.parent)
    part = output.with_name(f".ckstore-{os.urandom(8).hex()}.part")
    try:
        if format == "pt":
            _write_pt(repository, commit, part, only)
            made = Converted(output, part.stat().st_size)
        else:
            picked, left_out = picked_tensors(repository, commit, only)
            made = Converted(output, 0, len(left_out), tuple(left_out[:_SHOWN]))
            with durable.create(part) as out:
                for view in _safetensors(repository, picked, progress):
                    out.write(view)
                    progress.advance(view.nbytes)
                out.sync()
                made = Converted(output, out.size_bytes, len(left_out), tuple(left_out[:_SHOWN]))
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


def _write_pt(repository: Repository, commit: Commit, part: Path, only: Sequence[str] | None) -> None:
    from ckstore.torch.save import save  # torch: only where it is asked for

    save(selected_state(repository, commit, only), part)


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
        wanted = None if only is None else tree.selected(only)
        skip = range(0)
        for node in tree.nodes:
            value = node.entry.value
            seen += [tree.path(node.ordinal)] if only is not None else []
            if node.ordinal in skip or (wanted is not None and node.ordinal not in wanted):
                continue
            if isinstance(value, _MADE_OF_TENSORS):
                skip = tree.below(node.ordinal)
                left_out.append(tree.path(node.ordinal))
            elif isinstance(value, (Tensor, Alias)):
                found.append((tree, node))
            elif not children(value) and node.keys and ATTRIBUTES not in node.keys:
                left_out.append(tree.path(node.ordinal))
    if not found:
        what = "the commit holds no tensors" if only is None else f"no tensor matches {', '.join(only)}"
        raise InvalidInput(what, hint=nearest(only[0], seen) if only else "use --format pt")
    several = len({tree.component for tree, _ in found}) > 1
    return [Picked(_described(tree, node, several=several), tree, node.ordinal) for tree, node in found], left_out


def _described(tree: Structure, node: Node, *, several: bool) -> Described:
    value = node.entry.value
    assert isinstance(value, (Tensor, Alias))
    if value.dtype not in ITEM_SIZE:
        raise InvalidInput(f"{tree.path(node.ordinal)} is {value.dtype}, which safetensors has not")
    name = dotted((tree.component, *node.keys) if several or not node.keys else node.keys)
    return Described(name, value.dtype, value.shape)


def _safetensors(repository: Repository, picked: Sequence[Picked], progress: Progress) -> Iterator[memoryview]:
    """The bytes of the file."""
    described = [one.described for one in picked]
    header, order = new_header(described)
    progress.start("writing", len(header) + sum(one.size_bytes for one in described))
    yield memoryview(header)
    reader = repository.store.objects
    runs: dict[int, TreeRuns] = {}
    for number in order:
        one = picked[number]
        tree = one.structure
        value = tree.nodes[one.ordinal].entry.value
        assert isinstance(value, (Tensor, Alias))
        if value.strides is not None:
            yield _gathered(repository, one)
            continue
        owner = tree.nodes[tree.owner(value, one.ordinal)].entry.value
        assert isinstance(owner, Tensor)
        run, start = runs.setdefault(id(tree), TreeRuns(tree.tree, reader)).of_tensor(owner)
        size = one.described.size_bytes
        if value.offset < 0 or start + value.offset + size > run.length:
            raise InvalidInput(f"{tree.path(one.ordinal)} reaches beyond its span", hint="`ckstore verify`")
        yield from run.read(start + value.offset, size)


def _gathered(repository: Repository, one: Picked) -> memoryview:
    """The bytes of a tensor that does not lie in one piece."""
    from ckstore.torch.lazy import LazyTensor
    from ckstore.torch.tensors import host_view

    tensor = LazyTensor(one.structure, repository.store.objects, one.ordinal).load().contiguous()
    return host_view(tensor.untyped_storage(), 0, one.described.size_bytes)
