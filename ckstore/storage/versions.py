"""Earlier versions of a component's chunks: what lay in the same place in an older tree."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ckstore.errors import Format
from ckstore.objects.tree import Tensor, Tree, Whole, dotted, walk

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ckstore.objects.draft import Draft, Span

LIKE_AT_MOST = 8
"""Branches that a new one without a parent is compared with, the newest first."""


class Versions:
    """The chunks of `tree`, or of nothing, by place: spans by path, dtype and length, slabs by dtype and length."""

    def __init__(self, tree: Tree | None) -> None:
        self._tree = tree
        self._slabs = {} if tree is None else {(slab.dtype, slab.length): slab.ids for slab in tree.slabs}
        self._spans: dict[tuple[str, str, int], bytes] | None = None

    def of_span(self, span: Span) -> bytes:
        """Ids of the chunks of the span at the same path, one after another; empty where there was none like it."""
        if self._tree is None:
            return b""
        if self._spans is None:
            self._spans = {
                (dotted(node.keys), value.dtype, value.data.length): value.data.ids
                for node in walk(self._tree.entries)
                if isinstance(value := node.entry.value, Tensor) and isinstance(value.data, Whole)
            }
        return self._spans.get((span.path, span.dtype, span.length), b"")

    def of_slab(self, dtype: str, length: int) -> bytes:
        """Ids of the chunks of the slab of that dtype, if it was as long."""
        return self._slabs.get((dtype, length), b"")

    def likeness(self, draft: Draft) -> int:
        """How many bytes of a draft's own spans have an earlier version here."""
        return sum(span.length for span in draft.spans if self.of_span(span))


class Candidate(NamedTuple):
    """A component of an older checkpoint whose chunks may serve as bases."""

    component: str
    tree: Tree


def earlier_versions(candidates: Iterable[Candidate], drafts: Mapping[str, Draft], *, parents: bool) -> dict[str, Tree]:
    """For each draft the first candidate of its component that is of a parent, or else the one most like it."""
    found: dict[str, Tree] = {}
    best: dict[str, int] = {}
    for component, tree in candidates:
        draft = drafts.get(component)
        if draft is None:
            continue
        try:
            likeness = 1 if parents else Versions(tree).likeness(draft)
        except Format:  # a tree that cannot be read serves nobody and stops nothing
            continue
        if likeness > best.get(component, 0):
            found[component], best[component] = tree, likeness
    return found
