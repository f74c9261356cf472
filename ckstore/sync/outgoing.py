"""What of a repository a remote lacks, and as which frames it is sent."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ckstore.codec.choice import Coder
from ckstore.digest import NO_ID
from ckstore.errors import Integrity
from ckstore.storage.chain import work
from ckstore.storage.encoder import frame_of
from ckstore.sync.chains import Reached, extended
from ckstore.sync.packing import Outgoing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from ckstore.codec.preset import Preset
    from ckstore.storage.location import Location
    from ckstore.sync.local import Local
    from ckstore.sync.needs import Need


class Sending(NamedTuple):
    """A frame to send as it lies here, or, where what it hangs on will not do on the remote, encoded by itself."""

    place: Location
    need: Need
    alone: bool


class Lacking:
    """Decides how what a remote lacks is sent.

    `reach` says what can be read there, `shadows` whether a frame of an object is known there that cannot: what comes
    beside it must be of a lower version, and is encoded by itself. A frame goes as it is, with those that it hangs on,
    as long as its chain there costs no more than `preset` allows, or than it does here. `planned` is what will be there
    besides; what comes in another way is to be added.
    """

    def __init__(
        self,
        local: Local,
        preset: Preset,
        reach: Callable[[bytes], Reached | None],
        shadows: Callable[[bytes], bool],
    ) -> None:
        self._local = local
        self._preset = preset
        self._there = reach
        self._shadows = shadows
        self.planned: dict[bytes, Reached] = {}

    def sendings(self, needs: Mapping[bytes, Need]) -> list[Sending]:
        """What to send for `needs`; streams one after another, in each what others hang on first.

        Raises `Integrity` where something is missing here.
        """
        found: list[Sending] = []
        for id, need in needs.items():
            if self.reach(id) is None:
                found += self._with_bases(id, need)
        return sorted(found, key=lambda sending: sending.need.stream)

    def reach(self, id: bytes) -> Reached | None:
        """An object as it can be read there once all is sent; None where it cannot."""
        return self.planned.get(id) or self._there(id)

    def _with_bases(self, id: bytes, need: Need) -> Iterator[Sending]:
        chain = self._local.chain(id)
        if not chain:
            raise Integrity(
                f"object {id.hex()} is missing", hint="`ckstore verify` lists all losses; `ckstore repair` notes them"
            )
        needed: list[Location] = []
        for place in chain:
            if needed and self.reach(place.frame.id) is not None:
                break
            needed.append(place)
        own = sum(work(place.frame) for place in chain)
        for place in reversed(needed):
            frame = place.frame
            there = extended(self.reach(frame.base) if frame.base != NO_ID else None, frame)
            most = max(self._preset.max_work * frame.raw_length, own)
            alone = frame.base != NO_ID and (there is None or there.work > most or self._shadows(frame.id))
            if alone or there is None:
                there = Reached(frame._replace(base=NO_ID, version=0), 0, frame.raw_length)
            self.planned[frame.id] = there
            yield Sending(place, need, alone)


def outgoing(local: Local, sendings: Iterable[Sending], preset: Preset) -> Iterator[Outgoing]:
    """The frames to send. Those that go by themselves are encoded as they are asked for."""
    coder: Coder | None = None
    for place, need, alone in sendings:
        frame = place.frame
        if not alone:
            yield Outgoing(need.stream, frame, partial(local.payload, place))
            continue
        coder = coder or Coder()
        raw = local.read(frame.kind, frame.id)
        encoded = coder.encode(memoryview(raw), need.dtype, preset)
        payload = b"".join(encoded.pieces)
        yield Outgoing(need.stream, frame_of(frame.kind, frame.id, len(raw), encoded), partial(bytes, payload))
