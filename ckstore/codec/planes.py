"""Chunks of numbers as byte planes: plans, encodes, decodes. One `Planes` serves one thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckstore.codec.plan import Plan, candidates, compressible, easier

if TYPE_CHECKING:
    from ckstore.codec.passes import Passes
    from ckstore.codec.payload import Payload
    from ckstore.codec.plan import Look

_SAMPLE = 2048


class Planes:
    """Encodes and decodes chunks of numbers of `width` bytes; for one thread at a time."""

    def __init__(self, passes: Passes) -> None:
        self._width = passes.width
        self._passes = passes
        self.copy = passes.copy
        self.same = passes.same

    def survey(
        self, raw: memoryview, base: memoryview | None = None, *, rotate: bool, sample: int = _SAMPLE
    ) -> list[Look]:
        """A look at about `sample` elements of `raw`, or at their differences to `base`; one for each byte."""
        step = max(1, raw.nbytes // self._width // sample) | 1  # odd: rows of a table have even lengths
        return self._passes.survey(raw, base, step, rotate=rotate)

    def encode(self, raw: memoryview, base: memoryview | None = None, *, rotate: bool, worth: float) -> Payload:
        """The payload of a chunk, by itself or as the difference to `base`.

        A look at a sample decides how each plane is stored, and whether elements that may be rotated are; for the rest
        see `Passes.encode`.
        """
        looks = self.survey(raw, base, rotate=rotate)
        if rotate and compressible(looks, worth) > 1:
            plain = self.survey(raw, base, rotate=False)
            if easier(plain, looks, worth):
                rotate, looks = False, plain
        halved, ways = candidates(looks, worth)
        return self._passes.encode(raw, base, Plan(rotate, halved, worth, ways))

    def decode(self, payload: memoryview, target: memoryview) -> None:
        """Fill `target` exactly. Raises `Integrity`; every length is checked before it is used."""
        self._passes.decode(payload, target, difference=False)

    def add(self, payload: memoryview, target: memoryview) -> None:
        """Turn the base in `target` into what `payload` was encoded from. Raises `Integrity`, as `decode`."""
        self._passes.decode(payload, target, difference=True)
