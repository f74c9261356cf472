"""The passes over the bytes of chunks: numbers into payloads of planes and back, and what a sample of them says.

Two do the same: `numpy_passes`, and `compiled`, where it was built, which makes one call of it all and holds no lock
meanwhile. Only the compiled ones can tell zstd not to look for repeats, so that frames may differ; either reads both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ckstore.codec.payload import Payload
    from ckstore.codec.plan import Look, Plan


class Passes(Protocol):
    """For elements of `width` bytes, in buffers that are reused; for one thread at a time."""

    width: int

    def copy(self, source: memoryview, target: memoryview) -> None:
        """Copy as many bytes as `target` has."""

    def same(self, one: memoryview, other: memoryview) -> bool:
        """Whether the bytes of two are the same."""

    def survey(self, raw: memoryview, base: memoryview | None, step: int, *, rotate: bool) -> list[Look]:
        """A look at each byte of every `step`-th element, or of its difference to `base`."""

    def encode(self, raw: memoryview, base: memoryview | None, plan: Plan) -> Payload:
        """The payload of a chunk, or of its difference to `base`.

        Every compressed plane has been decoded again and compared. The pieces last until the next call. Raises
        `Integrity` where one does not come back.
        """

    def decode(self, payload: memoryview, target: memoryview, *, difference: bool) -> None:
        """Fill `target` exactly; with `difference`, add to the base in it. Raises `Integrity`.

        Every length is checked before it is used, and no more is allocated than `target` is long, or about.
        """
