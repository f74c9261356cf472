"""Where the elements of a tensor entry lie: checked, so that what follows from it cannot leave its bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ckstore.codec.element import element
from ckstore.errors import Format
from ckstore.graph.portions import Stretch
from ckstore.objects.tree import Alias, InSlab, Tensor, check_run, row_major

if TYPE_CHECKING:
    from ckstore.objects.structure import Structure

_ONE_BYTE = {"bool", "float4_e2m1fn_x2", "bits8", "bits1x8", "bits2x4", "bits4x2"} | {
    f"{sign}int{bits}" for sign in ("", "u") for bits in range(1, 9)
}
_MAX_DIMS = 64
_BEYOND = 1 << 63
"""No size, stride or number of bytes is as much."""


def item_size(dtype: str) -> int:
    """Bytes of an element, by torch's name of its dtype. Raises `Format` for one that is not known."""
    if dtype in _ONE_BYTE:
        return 1
    if dtype == "bits16":
        return 2
    found = element(dtype)
    if found is None:
        raise Format(f"a tensor has the unknown dtype {dtype!a:.80}", hint="use the ckstore version that wrote it")
    return found[0] * 2 if dtype.startswith("complex") else found[0]


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor entry's elements and where they lie.

    `sizes` and `steps` (in elements) are its shape and strides without the dimensions of one element; `stretch` runs
    from the first byte of the first element to the last one of the last; `owner` is the entry whose span that is in.
    """

    dtype: str
    shape: tuple[int, ...]
    item_size: int
    sizes: tuple[int, ...]
    steps: tuple[int, ...]
    stretch: Stretch
    owner: int

    @property
    def elements(self) -> int:
        """How many elements the tensor has, each as often as it is shown."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes of its elements, as if each had its own."""
        return self.elements * self.item_size

    @property
    def raw_bytes(self) -> int:
        """Bytes that are stored for its elements, however often it shows them."""
        return min(self.size_bytes, self.stretch.length)

    @property
    def is_aligned(self) -> bool:
        """Whether no chunk ends inside an element."""
        return not (self.stretch.chunk_size % self.item_size or self.stretch.start % self.item_size)

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for entries of one tree that show the same elements of the same bytes."""
        return self.owner, self.dtype, self.sizes, self.steps, self.stretch.start


def place(structure: Structure, ordinal: int) -> Place:
    """The place of the tensor at an entry. Raises `Format` where it contradicts itself or reaches beyond its span."""
    value = structure.nodes[ordinal].entry.value
    assert isinstance(value, (Tensor, Alias))
    owner = structure.owner(value, ordinal)
    held = structure.nodes[owner].entry.value
    assert isinstance(held, Tensor)
    size = item_size(value.dtype)
    sizes, steps = _checked(value, size)
    reach = sum((n - 1) * step for n, step in zip(sizes, steps, strict=True)) + 1 if 0 not in sizes else 0
    if value.offset + reach * size > held.data.length:
        raise Format(f"{structure.path(ordinal)} reaches beyond its span")
    span = span_of(structure, held)
    stretch = span._replace(start=span.start + value.offset, length=reach * size)
    return Place(value.dtype, value.shape, size, sizes, steps, stretch, owner)


def _checked(value: Tensor | Alias, size: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sizes and steps of the dimensions that have more than one element, or none."""
    shape = value.shape
    if len(shape) > _MAX_DIMS:
        raise Format(f"a tensor claims {len(shape)} dimensions")
    strides = value.strides if value.strides is not None else row_major(shape)
    if len(strides) != len(shape):
        raise Format(f"a tensor claims {len(shape)} dimensions with {len(strides)} strides")
    if any(not 0 <= n < _BEYOND for n in (*shape, *strides)) or math.prod(shape) * size >= _BEYOND:
        raise Format(f"a tensor claims the impossible shape {shape} with strides {strides}")
    if value.offset < 0 or value.offset % size:
        raise Format(f"a tensor of {value.dtype} begins at byte {value.offset} of its span")
    kept = [(n, step) for n, step in zip(shape, strides, strict=True) if n != 1]
    return tuple(n for n, _ in kept), tuple(step for _, step in kept)


def span_of(structure: Structure, held: Tensor) -> Stretch:
    """All of the span that a tensor entry holds. Raises `Format` where it lies outside its chunks or its slab."""
    tree, data = structure.tree, held.data
    if not isinstance(data, InSlab):
        check_run(data.length, data.ids, tree.chunk_size)
        return Stretch(data.ids, data.length, tree.chunk_size, 0, data.length)
    if not 0 <= data.slab < len(tree.slabs):
        raise Format("a tensor names a slab that is not there")
    slab = tree.slabs[data.slab]
    if data.length < 0 or not 0 <= data.start <= slab.length - data.length:
        raise Format("a tensor reaches beyond its slab")
    return Stretch(slab.ids, slab.length, tree.chunk_size, data.start, data.length)


class Grid(NamedTuple):
    """The elements of one or two tensors of the same shape and dtype, each that has bytes of its own once.

    `steps` has a tuple for each of the tensors. Dimensions that all of them expand are left out: each element stands
    `repeats` times in the tensors.
    """

    repeats: int
    sizes: tuple[int, ...]
    steps: tuple[tuple[int, ...], ...]

    @property
    def elements(self) -> int:
        """How many there are to look at."""
        return math.prod(self.sizes)

    @property
    def is_dense(self) -> bool:
        """Whether the bytes of all the tensors are their elements, without a gap, in the same order."""
        first = self.steps[0]
        if any(steps != first for steps in self.steps):
            return False
        if first == row_major(self.sizes):
            return True
        expected = 1
        for step, size in sorted(zip(first, self.sizes, strict=True)):
            if step != expected:
                return False
            expected *= size
        return True


def grid(*places: Place) -> Grid:
    """The common grid of tensors that have the same shape and dtype."""
    if not any(0 in one.steps for one in places):
        return Grid(1, places[0].sizes, tuple(one.steps for one in places))
    dimensions = list(zip(places[0].sizes, *(one.steps for one in places), strict=True))
    kept = [(size, *steps) for size, *steps in dimensions if any(steps) or not size]
    repeats = math.prod(size for size, *steps in dimensions if size and not any(steps))
    steps = tuple(tuple(one[number + 1] for one in kept) for number in range(len(places)))
    return Grid(repeats, tuple(one[0] for one in kept), steps)


def is_streamed(shape: Grid, *places: Place) -> bool:
    """Whether the tensors can be looked at chunk by chunk."""
    return not shape.elements or (shape.is_dense and all(one.is_aligned for one in places))


def is_measurable(shape: Grid, *places: Place) -> bool:
    """Whether there are no more elements to look at than the tensors hold bytes for: views may overlap themselves."""
    return shape.elements * places[0].item_size <= max(one.stretch.length for one in places)
