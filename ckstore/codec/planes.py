"""Chunks of numbers as byte planes: plans, encodes, decodes. One `Planes` serves one thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckstore.codec.plan import RAW, Plan, candidates, compressible, easier

if TYPE_CHECKING:
    from ckstore.codec.passes import Passes
    from ckstore.codec.payload import Payload
    from ckstore.codec.plan import Look, Way

_SAMPLE = 2048
_TRIED = 4096
"""Elements that a plane is tried on where several ways may be the shortest."""


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
        halved, found = candidates(looks, worth)
        ways = [one[0] for one in found]
        plan = Plan(rotate, halved, worth, ways)
        for number, several in enumerate(found):
            if len(several) > 1:
                ways[number] = self._shortest(several, number, raw, base, plan)
        return self._passes.encode(raw, base, plan)

    def decode(self, payload: memoryview, target: memoryview) -> None:
        """Fill `target` exactly. Raises `Integrity`; every length is checked before it is used."""
        self._passes.decode(payload, target, difference=False)

    def add(self, payload: memoryview, target: memoryview) -> None:
        """Turn the base in `target` into what `payload` was encoded from. Raises `Integrity`, as `decode`."""
        self._passes.decode(payload, target, difference=True)

    def _shortest(self, ways: list[Way], number: int, raw: memoryview, base: memoryview | None, plan: Plan) -> Way:
        """The way that plane `number` comes out shortest in, of a piece from the middle."""
        length = min(raw.nbytes // self._width, _TRIED) * self._width
        start = (raw.nbytes - length) // 2 // self._width * self._width
        piece, older = raw[start : start + length], None if base is None else base[start : start + length]

        def came_to(way: Way) -> int:
            tried = [RAW] * len(plan.ways)
            tried[number] = way
            return self._passes.encode(piece, older, plan._replace(worth=1.0, ways=tried)).length

        return min(ways, key=came_to)
