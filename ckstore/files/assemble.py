"""A stored file's bytes in order, from its gaps and the spans of its components."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckstore.errors import Format
from ckstore.objects.run import Run, TreeRuns
from ckstore.objects.tree import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckstore.objects.reader import ObjectReader
    from ckstore.objects.tree import File, Segment, Tree


def assemble(file: File, own: Tree, trees: Mapping[str, Tree], reader: ObjectReader) -> Iterator[memoryview]:
    """The bytes of `file`, whose entry is in the tree `own`; `trees` holds the components it names.

    Each view is good until the next is asked for. Raises `Integrity` for what is missing or damaged and
    `Format` for a file that contradicts itself; lengths are checked before anything is read.
    """
    if sum(segment.gap + segment.length for segment in file.segments) != file.size or any(
        min(segment.gap, segment.length, segment.start) < 0 for segment in file.segments
    ):
        raise Format("a file's segments do not add up to its size")
    gaps = Run.of_blob(file.gaps, own.chunk_size, reader)
    if sum(segment.gap for segment in file.segments) != gaps.length:
        raise Format("a file's gaps do not add up")
    runs = {name: TreeRuns(tree, reader) for name, tree in trees.items() if name in file.components}
    position = 0
    for segment in file.segments:
        yield from gaps.read(position, segment.gap)
        position += segment.gap
        if segment.length:
            value = _tensor(file, segment, trees)
            if segment.start + segment.length > value.data.length:
                raise Format("a file's segment reaches beyond its span")
            run, start = runs[file.components[segment.component]].of_tensor(value)
            yield from run.read(start + segment.start, segment.length)


def _tensor(file: File, segment: Segment, trees: Mapping[str, Tree]) -> Tensor:
    """The entry whose span a segment lies on."""
    if not 0 <= segment.component < len(file.components) or file.components[segment.component] not in trees:
        raise Format("a file names a component that is not in its commit")
    tree = trees[file.components[segment.component]]
    value = tree.entries[segment.entry].value if 0 <= segment.entry < len(tree.entries) else None
    if not isinstance(value, Tensor):
        raise Format("a file names an entry that holds no bytes")
    return value
