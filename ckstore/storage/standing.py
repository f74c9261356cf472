"""What is left of an inventory once a sweep is done: whether something saved since then can still rely on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ckstore.digest import NO_ID
from ckstore.errors import Format, Integrity
from ckstore.pack.reader import read_sealed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckstore.storage.inventory import Inventory
    from ckstore.storage.record import PackEntry
    from ckstore.storage.store import Store
    from ckstore.storage.sweep import Sweep

_GONE = 1 << 40
"""Past all versions."""


class Standing:
    """The versions of an inventory's objects after a sweep, at the most; those that go have none."""

    def __init__(self, inventory: Inventory, plan: Sweep) -> None:
        self._inventory = inventory
        self._version = inventory.table["version"].astype(np.int64)
        going = np.zeros(len(inventory.packs), bool)
        going[[*plan.unused, *plan.freed, *(number for group in plan.groups for number in group.packs)]] = True
        self._version[going[inventory.pack]] = _GONE
        for group in plan.groups:
            self._version[group.copied] = inventory.table["version"][group.copied]
            for family in group.families:
                self._version[family] = np.arange(len(family))

    def lacks(self, ids: Sequence[bytes]) -> bool:
        """Whether any of these objects goes. What the inventory does not know came later, and stays."""
        places = self._inventory.find_all(ids)
        return bool((self._version[places[places >= 0]] == _GONE).any())

    def breaks(self, store: Store, entry: PackEntry) -> bool:
        """Whether a frame of a pack that came later hangs on something that goes, or becomes too new for it."""
        try:
            frames = [row.frame for row in read_sealed(store.packs.get(entry.name)).rows if row.frame.base != NO_ID]
        except (OSError, Format) as error:
            raise Integrity(f"pack {entry.name.hex()} cannot be read: {error}", hint="run `ckstore verify`") from error
        places = self._inventory.find_all(frame.base for frame in frames)
        versions = np.array([frame.version for frame in frames], np.int64)
        known = places >= 0
        return bool((self._version[places[known]] >= versions[known]).any())
