"""A stored file's bytes in order, from its gaps and the spans of its components."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckstore.errors import Format
from ckstore.objects.run import Run, TreeRuns
from ckstore.objects.tree import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckstore.objects.reader import ObjectReader
    from ckstore.objects.tree import File, Tree


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
            run, start = _place(file, segment.component, segment.entry, trees, runs)
            if segment.start + segment.length > run.length - start:
                raise Format("a file's segment reaches beyond its span")
            yield from run.read(start + segment.start, segment.length)


def _place(
    file: File, component: int, entry: int, trees: Mapping[str, Tree], runs: Mapping[str, TreeRuns]
) -> tuple[Run, int]:
    """The run that holds an entry's span, and where in it the span begins."""
    if not 0 <= component < len(file.components) or file.components[component] not in trees:
        raise Format("a file names a component that is not in its commit")
    name = file.components[component]
    tree = trees[name]
    value = tree.entries[entry].value if 0 <= entry < len(tree.entries) else None
    if not isinstance(value, Tensor):
        raise Format("a file names an entry that holds no bytes")
    return runs[name].of_tensor(value)
