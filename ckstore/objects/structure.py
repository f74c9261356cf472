"""A tree's entries as a structure: parents, children, and which of them a pattern selects."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from ckstore.errors import Format, nearest
from ckstore.objects.tree import Alias, Node, Tensor, children, dotted, walk

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckstore.objects.tree import Tree

__all__ = ["Structure", "nearest"]


class Structure:
    """The entries of one component with their places. Raises `Format` where they are no structure."""

    def __init__(self, component: str, tree: Tree) -> None:
        self.component = component
        self.tree = tree
        self.nodes: list[Node] = list(walk(tree.entries))
        self._ends = [0] * len(self.nodes)
        open_containers: list[tuple[int, int]] = []
        for node in self.nodes:
            count = children(node.entry.value)
            if count:
                open_containers.append((node.ordinal, count))
                continue
            end = node.ordinal + 1
            self._ends[node.ordinal] = end
            while open_containers:
                ordinal, left = open_containers.pop()
                if left > 1:
                    open_containers.append((ordinal, left - 1))
                    break
                self._ends[ordinal] = end

    def children(self, ordinal: int) -> Iterator[Node]:
        """The direct children of an entry, in order."""
        child, end = ordinal + 1, self._ends[ordinal]
        while child < end:
            yield self.nodes[child]
            child = self._ends[child]

    def below(self, ordinal: int) -> range:
        """Ordinals of an entry and all that is under it."""
        return range(ordinal, self._ends[ordinal])

    def path(self, ordinal: int) -> str:
        """The dotted path of an entry, the component first."""
        return dotted((self.component, *self.nodes[ordinal].keys))

    def owner(self, value: Tensor | Alias, ordinal: int) -> int:
        """The ordinal of the entry that holds the bytes of a tensor entry. Raises `Format` for a false alias."""
        owner = value.owner if isinstance(value, Alias) else ordinal
        if not 0 <= owner <= ordinal or not isinstance(self.nodes[owner].entry.value, Tensor):
            raise Format(f"{self.path(ordinal)} is an alias of what is no tensor")
        return owner

    def selected(self, patterns: Sequence[str]) -> set[int]:
        """Ordinals that a pattern matches by path, and all below them; `*` matches dots too."""
        found: set[int] = set()
        for node in self.nodes:
            path = self.path(node.ordinal)
            if node.ordinal not in found and any(fnmatchcase(path, pattern) for pattern in patterns):
                found.update(self.below(node.ordinal))
        return found
