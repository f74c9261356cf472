"""Writes what is needed of some packs into new ones: frames as they are, families of versions encoded anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ckstore.digest import NO_ID, Kind
from ckstore.errors import Integrity
from ckstore.storage.chain import DEEPEST, work
from ckstore.storage.encoder import POOR, Buffers, frame_of
from ckstore.storage.packer import META
from ckstore.storage.workers import PerThread, jobs

if TYPE_CHECKING:
    from ckstore.codec.encoded import Encoded
    from ckstore.codec.preset import Preset
    from ckstore.pack.format import Frame
    from ckstore.progress import Progress
    from ckstore.storage.inventory import Array, Inventory, Live
    from ckstore.storage.packer import Packer
    from ckstore.storage.store import Store
    from ckstore.storage.sweep import Group

_BASES = "bases"
"""The stream of chunks that only deltas need."""


class _Version(NamedTuple):
    """A member of a family as it is written now."""

    id: bytes
    data: memoryview
    depth: int
    cost: int


class Rewriter:
    """Writes groups of packs of an inventory anew; new deltas as `preset` says."""

    def __init__(self, store: Store, inventory: Inventory, live: Live, preset: Preset) -> None:
        self._store = store
        self._inventory = inventory
        self._live = live
        self._preset = preset
        self._scratch = PerThread()

    def write(self, group: Group, packer: Packer, progress: Progress) -> dict[bytes, bytes]:
        """Write a group through `packer`; the commits among it by id.

        Raises `Integrity` where something is damaged: then nothing of the group may be condemned.
        """
        commits: dict[bytes, bytes] = {}
        places = group.copied[self._order(group.copied)].tolist()

        def copy(job: list[int]) -> None:
            for place in job:
                self._copy(place, packer, commits)
                progress.advance(int(self._inventory.table["stored"][place]))

        def encode(family: Array) -> None:
            self._encode(family, packer)
            progress.advance(int(self._inventory.table["stored"][family].sum()))

        self._store.workers.map(copy, jobs(places, lambda place: int(self._inventory.table["stored"][place])))
        self._store.workers.map(encode, group.families)
        return commits

    def _order(self, places: Array) -> Array:
        """In what order to read: as they lie."""
        return np.lexsort((self._inventory.table["offset"][places], self._inventory.pack[places]))

    def _copy(self, place: int, packer: Packer, commits: dict[bytes, bytes]) -> None:
        location = self._inventory.location(place)
        frame = location.frame
        try:
            payload = self._store.objects.payload(location)
            if frame.kind is Kind.COMMIT:
                commits[frame.id] = self._store.objects.read_at(location)
        except OSError as error:
            raise Integrity(f"cannot read pack {location.pack.hex()}: {error.strerror}") from error
        packer.add(self._stream(place, frame), frame, (payload,))

    def _stream(self, place: int, frame: Frame) -> str:
        if frame.kind is not Kind.CHUNK:
            return META
        label = int(self._live.label[place])
        return _BASES if label < 0 else self._live.labels[label][0] or _BASES

    def _encode(self, family: Array, packer: Packer) -> None:
        """Encode versions of a chunk, the newest first: that one by itself, the others against it or each other."""
        held: dict[int, _Version] = {}
        for number, place in enumerate(family.tolist()):
            frame = self._inventory.location(place).frame
            data = memoryview(bytearray(frame.raw_length))
            self._store.objects.read_into(frame.id, data)
            base = held.get(number & (number - 1) if self._preset.skip else number - 1) if number else None
            dtype = self._live.labels[int(self._live.label[place])][1]
            encoded, chosen = self._encoded(data, dtype, base)
            new = frame_of(frame.kind, frame.id, data.nbytes, encoded)
            depth, cost = 0, work(new)
            if chosen is not None:
                new = new._replace(base=chosen.id, version=number)
                depth, cost = chosen.depth + 1, chosen.cost + cost
            packer.add(self._stream(place, frame), new, encoded.pieces)
            held[number] = _Version(frame.id, data, depth, cost)
            for old in [old for old in held if not self._is_base_later(old, number)]:
                del held[old]

    def _is_base_later(self, version: int, number: int) -> bool:
        """Whether versions after `number` may be kept against `version`."""
        if not self._preset.skip:
            return version == number
        return version == 0 or number < version + (version & -version) // 2

    def _encoded(self, data: memoryview, dtype: str, base: _Version | None) -> tuple[Encoded, _Version | None]:
        """A version against `base` where that gains enough, else by itself."""
        coder = self._scratch.get(Buffers).coder
        preset, length = self._preset, data.nbytes
        near = base is not None and preset.deltas and base.depth < min(preset.max_depth, DEEPEST)
        if base is not None and near and coder.gains(data, dtype, preset, base.data):
            encoded = coder.encode(data, dtype, preset, base.data)
            cost = base.cost + work(frame_of(Kind.CHUNK, NO_ID, length, encoded))
            if encoded.length < POOR * length and cost <= preset.max_work * length:
                return encoded, base
        return coder.encode(data, dtype, preset), None
