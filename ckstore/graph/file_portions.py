"""A committed file as portions: of its own gaps and of the spans of components, in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckstore.errors import Format
from ckstore.graph.placement import span_of
from ckstore.graph.portions import Stretch, inline_portion, portions
from ckstore.objects.leaf import Chunks
from ckstore.objects.tree import Tensor, check_run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckstore.graph.portions import Portion
    from ckstore.objects.structure import Structure
    from ckstore.objects.tree import File, Segment, Tree


def file_portions(file: File, own: Tree, structures: Mapping[str, Structure]) -> Iterator[Portion]:
    """Where the bytes of `file` lie, whose entry is in the tree `own`; `structures` holds the components it names.

    Raises `Format` for a file that contradicts itself.
    """
    if sum(segment.gap + segment.length for segment in file.segments) != file.size or any(
        min(segment.gap, segment.length, segment.start) < 0 for segment in file.segments
    ):
        raise Format("a file's segments do not add up to its size")
    if isinstance(file.gaps, Chunks):
        check_run(file.gaps.length, file.gaps.ids, own.chunk_size)
    if sum(segment.gap for segment in file.segments) != _gaps_length(file):
        raise Format("a file's gaps do not add up")
    position = 0
    for segment in file.segments:
        if isinstance(file.gaps, Chunks):
            yield from portions(Stretch(file.gaps.ids, file.gaps.length, own.chunk_size, position, segment.gap))
        elif segment.gap:
            yield inline_portion(file.gaps[position : position + segment.gap])
        position += segment.gap
        if segment.length:
            yield from portions(_stretch(file, segment, structures))


def _gaps_length(file: File) -> int:
    return file.gaps.length if isinstance(file.gaps, Chunks) else len(file.gaps)


def _stretch(file: File, segment: Segment, structures: Mapping[str, Structure]) -> Stretch:
    """The bytes of a segment that a component holds."""
    if not 0 <= segment.component < len(file.components) or file.components[segment.component] not in structures:
        raise Format("a file names a component that is not in its commit")
    structure = structures[file.components[segment.component]]
    held = structure.nodes[segment.entry].entry.value if 0 <= segment.entry < len(structure.nodes) else None
    if not isinstance(held, Tensor):
        raise Format("a file names an entry that holds no bytes")
    span = span_of(structure, held)
    if segment.start + segment.length > span.run_length - span.start:
        raise Format("a file's segment reaches beyond its span")
    return span._replace(start=span.start + segment.start, length=segment.length)
