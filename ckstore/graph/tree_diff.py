"""Two trees of one component, matched path by path. Nothing but the trees is read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from ckstore.graph.placement import grid, place
from ckstore.graph.portions import are_different, paired, portions, stretches_are_same
from ckstore.objects.tree import (
    Alias,
    Container,
    Deque,
    Dict,
    Encoded,
    File,
    Folder,
    Link,
    List,
    NamedFields,
    RngState,
    Set,
    Sparse,
    Tensor,
    Tuple,
    Wrapper,
    children,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckstore.graph.placement import Place
    from ckstore.objects.structure import Structure


class Verdict(Enum):
    """What ids alone say of a tensor that both trees hold."""

    SAME = "same"
    DIFFERENT = "different"
    UNDECIDED = "undecided"


class TensorPair(NamedTuple):
    """A tensor of the same dtype and shape in both trees.

    `is_rearranged` says that strides, flags, or which tensor holds its bytes are not the same.
    """

    path: str
    before: Place
    after: Place
    verdict: Verdict
    is_rearranged: bool


class Retype(NamedTuple):
    """A tensor whose dtype or shape is another now."""

    path: str
    before: Place
    after: Place


class ValuePair(NamedTuple):
    """A value that differs, by the ordinals of its entries; None where the tree has it not.

    A container counts as a value where it is empty or a set, or where its kind is another.
    """

    path: str
    before: int | None
    after: int | None


@dataclass
class TreeDiff:
    """What two trees have in common, and what not; tensors and values in the order of the newer tree."""

    added: list[tuple[str, Place]] = field(default_factory=list)
    removed: list[tuple[str, Place]] = field(default_factory=list)
    retyped: list[Retype] = field(default_factory=list)
    pairs: list[TensorPair] = field(default_factory=list)
    values: list[ValuePair] = field(default_factory=list)


def tree_diff(
    before: Structure | None,
    after: Structure | None,
    selected: tuple[set[int], set[int]] | None = None,
) -> TreeDiff:
    """Match the entries of two trees (None: the commit has not the component) by their places.

    `selected` holds the ordinals that count, of each tree; an entry counts where it does in either. Raises `Format`.
    """
    return _Matching(before, after, selected).run()


def container_text(value: object) -> str:
    """What a container is, its children apart. Empty for what is none."""
    if isinstance(value, (Tuple, Set, RngState)):
        return value.kind
    if isinstance(value, Dict):
        return value.kind if value.factory is None else f"{value.kind}({value.factory})"
    if isinstance(value, List):
        return "list"
    if isinstance(value, Deque):
        return "deque" if value.maxlen is None else f"deque(maxlen={value.maxlen})"
    if isinstance(value, NamedFields):
        return f"{value.module}.{value.name}({', '.join(value.fields)})"
    if isinstance(value, Sparse):
        return f"{value.layout} {value.shape}{' coalesced' * value.coalesced}{_flags(value.flags)}"
    if isinstance(value, Wrapper):
        return f"{value.module}.{value.name} {value.shape}"
    return value.name if isinstance(value, Encoded) else ""


def _flags(flags: int) -> str:
    return f" flags={flags}" if flags else ""


def entries(structure: Structure) -> Iterator[int]:
    """The ordinals of tensors, values and containers; the members of a set belong to it, files are left out."""
    end = 0
    for node in structure.nodes:
        value = node.entry.value
        if node.ordinal < end or isinstance(value, (File, Folder, Link)):
            continue
        if isinstance(value, Set):
            end = structure.below(node.ordinal).stop
        yield node.ordinal


def is_value(value: object) -> bool:
    """Whether an entry is one value for whoever looks at it: a leaf, a set, an empty container."""
    return isinstance(value, Set) or not (isinstance(value, (Tensor, Alias)) or children(value))


Placed = tuple[tuple[object, ...], int]
"""Keys from the root, and how many entries before had the same: only a hostile tree has any."""


def _by_keys(structure: Structure | None) -> dict[Placed, int]:
    found: dict[Placed, int] = {}
    seen: Counter[tuple[object, ...]] = Counter()
    for ordinal in () if structure is None else entries(structure):
        keys = structure.nodes[ordinal].keys if structure is not None else ()
        found[keys, seen[keys]] = ordinal
        seen[keys] += 1
    return found


class _Matching:
    """One comparison under way."""

    def __init__(
        self, before: Structure | None, after: Structure | None, selected: tuple[set[int], set[int]] | None
    ) -> None:
        self._before = before
        self._after = after
        self._selected = selected
        self._found = TreeDiff()

    def run(self) -> TreeDiff:
        old, new = _by_keys(self._before), _by_keys(self._after)
        for keys, ordinal in new.items():
            other = old.get(keys)
            if not self._counts(other, ordinal):
                continue
            if other is None:
                self._add(ordinal)
            else:
                self._match(other, ordinal)
        for keys, ordinal in old.items():
            if keys not in new and self._counts(ordinal, None):
                self._remove(ordinal)
        return self._found

    def _counts(self, before: int | None, after: int | None) -> bool:
        return self._selected is None or before in self._selected[0] or after in self._selected[1]

    def _match(self, before: int, after: int) -> None:
        assert self._before is not None
        assert self._after is not None
        one, other = self._before.nodes[before].entry.value, self._after.nodes[after].entry.value
        if isinstance(one, (Tensor, Alias)) and isinstance(other, (Tensor, Alias)):
            self._match_tensors(before, after, one, other)
        elif isinstance(one, Container) and isinstance(other, Container):
            if not _same_container(self._before, before, self._after, after):
                self._found.values.append(ValuePair(self._after.path(after), before, after))
        elif is_value(one) and is_value(other):
            if type(one) is not type(other) or one != other:
                self._found.values.append(ValuePair(self._after.path(after), before, after))
        else:
            self._remove(before)
            self._add(after)

    def _match_tensors(self, before: int, after: int, one: Tensor | Alias, other: Tensor | Alias) -> None:
        assert self._before is not None
        assert self._after is not None
        old = place(self._before, before)
        new = old if self._before is self._after else place(self._after, after)
        path = self._after.path(after)
        if (old.dtype, old.shape) != (new.dtype, new.shape):
            self._found.retyped.append(Retype(path, old, new))
            return
        owners = self._before.nodes[old.owner].keys, self._after.nodes[new.owner].keys
        rearranged = owners[0] != owners[1] or (one.strides, one.flags) != (other.strides, other.flags)
        self._found.pairs.append(TensorPair(path, old, new, verdict(old, new), rearranged))

    def _add(self, ordinal: int) -> None:
        assert self._after is not None
        value, path = self._after.nodes[ordinal].entry.value, self._after.path(ordinal)
        if isinstance(value, (Tensor, Alias)):
            self._found.added.append((path, place(self._after, ordinal)))
        elif is_value(value):
            self._found.values.append(ValuePair(path, None, ordinal))

    def _remove(self, ordinal: int) -> None:
        assert self._before is not None
        value, path = self._before.nodes[ordinal].entry.value, self._before.path(ordinal)
        if isinstance(value, (Tensor, Alias)):
            self._found.removed.append((path, place(self._before, ordinal)))
        elif is_value(value):
            self._found.values.append(ValuePair(path, ordinal, None))


def _same_container(before: Structure, one: int, after: Structure, other: int) -> bool:
    """Whether two containers are of one kind; sets, whether they have the same members."""
    left, right = before.nodes[one].entry.value, after.nodes[other].entry.value
    if isinstance(left, Set) and isinstance(right, Set):
        members = [
            {(type(node.entry.key), node.entry.key) for node in structure.children(ordinal)}
            for structure, ordinal in ((before, one), (after, other))
        ]
        return left.kind == right.kind and members[0] == members[1]
    return type(left) is type(right) and container_text(left) == container_text(right)


def verdict(before: Place, after: Place) -> Verdict:
    """What ids say of two tensors of the same dtype and shape."""
    if before is after:
        return Verdict.SAME
    both = grid(before, after)
    if not both.elements:
        return Verdict.SAME
    if before.steps != after.steps:
        return Verdict.UNDECIDED
    if stretches_are_same(before.stretch, after.stretch):
        return Verdict.SAME
    if both.is_dense and any(map(are_different, paired(portions(before.stretch), portions(after.stretch)))):
        return Verdict.DIFFERENT
    return Verdict.UNDECIDED
