"""Copies what is sound of damaged packs into new ones, each frame as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckstore.codec.choice import Coder
from ckstore.codec.preset import BALANCED
from ckstore.digest import Kind
from ckstore.errors import Integrity
from ckstore.storage.encoder import frame_of
from ckstore.storage.packer import META

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckstore.progress import Progress
    from ckstore.storage.examine import Examined
    from ckstore.storage.location import Location
    from ckstore.storage.packer import Packer
    from ckstore.storage.store import Store


def salvageable(examined: Examined) -> list[Location]:
    """The frames to copy, as they lie: of each object the best, where its pack is damaged."""
    going = {entry.name: number for number, entry in enumerate(examined.damaged)}
    places = [place for place in examined.best.values() if place.pack in going]
    return sorted(places, key=lambda place: (going[place.pack], place.offset))


def salvage(
    store: Store, examined: Examined, copies: Mapping[bytes, bytes], packer: Packer, progress: Progress
) -> dict[bytes, bytes]:
    """Write what is sound of damaged packs through `packer`, and the commits `copies` anew; all commits among it by id.

    Raises `Integrity` where what was sound a moment ago is not any more.
    """
    commits = dict(copies)
    coder = Coder()
    for id, data in copies.items():
        encoded = coder.encode(memoryview(data), "uint8", BALANCED)
        packer.add(META, frame_of(Kind.COMMIT, id, len(data), encoded), encoded.pieces)
    places = salvageable(examined)
    progress.start("salvaging", sum(place.frame.stored_length for place in places))
    for place in places:
        frame = place.frame
        try:
            payload = store.objects.payload(place)
            if frame.kind is Kind.COMMIT:
                commits[frame.id] = store.objects.read_along([place])
        except OSError as error:
            raise Integrity(
                f"pack {place.pack.hex()} cannot be read any more: {error.strerror}", hint="run `ckstore repair` again"
            ) from error
        packer.add(place.pack.hex() if frame.kind is Kind.CHUNK else META, frame, (payload,))
        progress.advance(frame.stored_length)
    return commits
