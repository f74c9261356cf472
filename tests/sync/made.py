"""Rows, packs and roots made up."""

from __future__ import annotations

from blake3 import blake3

from ckstore.digest import NO_ID, Kind
from ckstore.pack.format import FRAME_HEADER_SIZE, HEADER_SIZE, Frame
from ckstore.remote.root import Contents, RemoteRef, SegmentPointer
from ckstore.remote.segment import Place, RemotePack, write_segment


def id_of(number: int) -> bytes:
    return blake3(number.to_bytes(8, "big")).digest()


def pack_of(number: int) -> RemotePack:
    return RemotePack(id_of(number)[:16], id_of(number + 1), 1 << 20)


def place_of(number: int, pack: RemotePack, version: int = 0, base: bytes = NO_ID) -> Place:
    frame = Frame(Kind.CHUNK, 0, 1, id_of(number), 100, 100, base, version, 0)
    return Place(pack.name, HEADER_SIZE + number % 1000 * (FRAME_HEADER_SIZE + 100), frame)


def segment_of(
    numbers: range, packs: int = 2, level: int = 0, version: int = 0
) -> tuple[SegmentPointer, bytes, list[Place]]:
    held = [pack_of(10**6 + number) for number in range(packs)]
    places = [place_of(number, held[number % packs], version) for number in numbers]
    places.sort(key=lambda place: place.frame.id)
    digest, data = write_segment(places, held)
    return SegmentPointer(digest, len(data), len(places), packs, level), data, places


def root_of(**more: object) -> Contents:
    pointer, _, _ = segment_of(range(3))
    fields: dict[str, object] = {
        "repository": bytes(16),
        "generation": 3,
        "write_id": id_of(1)[:16],
        "head": "main",
        "refs": (RemoteRef("heads/main", id_of(1)), RemoteRef("tags/v1", id_of(2))),
        "segments": (pointer,),
        "state": None,
        "recent": (id_of(2)[:16],),
    }
    return Contents(**(fields | more))  # type: ignore[arg-type]
