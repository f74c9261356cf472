"""The passes over the bytes of chunks: numbers into planes and back, planes packed and back, counts of a sample.

Two do the same, byte for byte: `numpy_passes`, and `compiled`, which makes one pass of several and holds no lock
meanwhile, where it was built.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckstore.codec.arrays import Array


class Packed(NamedTuple):
    """A plane of few values: `bits` bits a value, which is the byte minus `low`; all ones stand for the next escape."""

    bits: int
    low: int
    packed: bytes
    escapes: memoryview


Plane = int | memoryview | bytes | Packed
"""A plane as a payload has it: the one value that all its bytes have, the bytes, or a packed one."""


class Passes(Protocol):
    """For elements of `width` bytes, in buffers that are reused; for one thread at a time."""

    width: int

    def copy(self, sources: Sequence[memoryview], target: memoryview) -> None:
        """Copy what fills `target`, one after another."""

    def sample(self, raw: memoryview, base: memoryview | None, step: int, *, rotate: bool) -> Array:
        """How often each of 256 values is in each byte of every `step`-th element, or of its difference to `base`."""

    def split(self, raw: memoryview, base: memoryview | None, *, rotate: bool, halved: bool) -> list[Array]:
        """The planes of the elements, or of their differences to `base`; they last until the next call.

        With `halved` the first is the low halves.
        """

    def is_constant(self, place: int) -> bool:
        """Whether all bytes of a plane of single bytes that `split` gave last are the same; there is at least one."""

    def pack(self, plane: Array, ends: Sequence[int], bits: int, low: int) -> tuple[list[Array], list[Array]]:
        """The packed bytes of the parts of `plane` that end at `ends`, until the next call, and the escapes of each.

        All lengths but the last divide by four.
        """

    def join(self, planes: list[Plane], target: memoryview, *, rotated: bool, halved: bool, difference: bool) -> None:
        """Fill the whole elements in `target`; with `difference`, add to them.

        Planes are as long as they must be. Raises `Integrity` where a packed one has more or fewer escapes.
        """

    def same(self, one: bytes | memoryview | Array, other: Array) -> bool:
        """Whether the bytes of two are the same."""


def uneven() -> str:
    """What is wrong with a packed plane whose escapes do not come out even."""
    return "a packed byte plane has another number of escapes than it says"
