"""What commits take on the disk beside others: the marginal bytes of what only they need."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ckstore.storage.inventory import Array, Inventory


class Costs:
    """Counts the stored bytes of commits one after another; `run_of(id, component)` names a component's objects."""

    def __init__(self, inventory: Inventory, run_of: Callable[[bytes, str], bytes]) -> None:
        self._inventory = inventory
        self._run_of = run_of
        self._taken = np.zeros(len(inventory), bool)
        self._size_bytes = inventory.size_bytes
        self._places: dict[bytes, Array] = {}

    def marginal(self, id: bytes, components: Sequence[str], /) -> int:
        """Bytes that components of a commit would take beside all that was taken."""
        places = self._of(id, components)
        return int(self._size_bytes[places[~self._taken[places]]].sum())

    def take(self, id: bytes, components: Sequence[str], /) -> None:
        """Components of a commit are kept."""
        self._taken[self._of(id, components)] = True

    def _of(self, id: bytes, components: Sequence[str]) -> Array:
        found = [np.zeros(0, np.int64)]
        for component in components:
            run = self._run_of(id, component)
            tree = run[:32]
            if tree not in self._places:
                self._places[tree] = self._inventory.closure(run)
            found.append(self._places[tree])
        return np.unique(np.concatenate(found))
