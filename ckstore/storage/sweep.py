"""Which packs go, which are written anew, and which chunks get new bases: the part of gc that only counts.

A pack that nothing needs goes as it is. With `repack` also:
- packs of which little is needed are copied: at most twice the bytes that nothing needs are written anew;
- many small packs are joined, each byte once for every doubling;
- families of deltas that hang on a version nobody names are encoded anew, the newest first and by itself, within the
  same bound; those that end in a branch's tip always, as far as the tip hangs on others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ckstore.digest import Kind
from ckstore.storage.packer import PACK_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckstore.storage.inventory import Array, Inventory, Live

_SMALL = PACK_SIZE // 8
_FEW = 8
_UNIT_FRAMES = 1024
"""How many rows the index drops while others wait: some 20 ms."""

_GROUP_FRAMES = 4096
_WORTH = 2
"""So many bytes may be written anew for each that nothing needs."""


@dataclass(frozen=True)
class Group:
    """Packs that are replaced together: the frames `copied` move as they are, `families` are encoded anew.

    A family's chunks come the newest first.
    """

    packs: tuple[int, ...]
    copied: Array
    families: tuple[Array, ...] = ()


@dataclass(frozen=True)
class Sweep:
    """What to do with the packs of an inventory: `unused` go, `groups` are replaced, then `freed` can go too.

    Bytes: `live_bytes` is what commits need, `base_bytes` what only deltas need, `dead_bytes` the rest. Of the first
    two `copied_bytes` and `rebased_bytes` are written anew.
    """

    unused: tuple[int, ...]
    groups: tuple[Group, ...]
    freed: tuple[int, ...]
    live_bytes: int
    base_bytes: int
    dead_bytes: int
    copied_bytes: int
    rebased_bytes: int


def sweep(inventory: Inventory, found: Live, *, repack: bool = False, deep: bool = False) -> Sweep:
    """Plan for an inventory; with `deep` all families are encoded anew."""
    live = found.marked
    sizes = np.array([entry.size_bytes for entry in inventory.packs], np.int64)
    needed = inventory.with_bases(live)
    live_bytes, base_bytes = int(inventory.sums(live).sum()), int(inventory.sums(needed & ~live).sum())
    dead_bytes = int(sizes.sum()) - live_bytes - base_bytes
    none = np.zeros(len(inventory), bool)
    taken = np.zeros(len(sizes), bool)
    used = _kept(inventory, live, taken, none)
    groups: list[Group] = []
    rebased = 0
    allowed = _WORTH * (dead_bytes + base_bytes)
    again = none.copy()
    if repack or deep:
        for group, forced in _rebasing(inventory, found, used, deep=deep):
            size = int(inventory.sums(live)[list(group.packs)].sum())
            if forced or size <= allowed:
                groups.append(group)
                taken[list(group.packs)] = True
                rebased += sum(int(inventory.size_bytes[family].sum()) for family in group.families)
                allowed -= 0 if forced else size
                again[np.concatenate(group.families)] = True
        left = used & ~taken
        copied = _sparse(inventory.sums(needed), sizes, left, allowed) | _small(inventory, needed, sizes, left)
        taken |= copied
        groups += [
            Group(unit, np.zeros(0, np.int64))
            for unit in units(inventory, np.flatnonzero(copied).tolist(), _GROUP_FRAMES)
        ]
    kept = _kept(inventory, live, taken, again)
    after = inventory.with_bases(live | kept[inventory.pack], again) & ~again
    groups = [_completed(inventory, group, after) for group in groups]
    return Sweep(
        unused=_leaving(inventory, ~used),
        groups=tuple(groups),
        freed=_leaving(inventory, used & ~kept & ~taken),
        live_bytes=live_bytes,
        base_bytes=base_bytes,
        dead_bytes=dead_bytes,
        copied_bytes=sum(int(inventory.size_bytes[group.copied].sum()) for group in groups),
        rebased_bytes=rebased,
    )


def units(inventory: Inventory, packs: Sequence[int], frames: int = _UNIT_FRAMES) -> Iterator[tuple[int, ...]]:
    """Runs of packs that one record can take in without holding up others: of few frames, and of a pack's bytes."""
    rows = np.bincount(inventory.pack, minlength=len(inventory.packs))
    unit: list[int] = []
    count = size_bytes = 0
    for number in packs:
        entry = inventory.packs[number]
        if unit and (count + rows[number] > frames or size_bytes + entry.size_bytes > PACK_SIZE):
            yield tuple(unit)
            unit, count, size_bytes = [], 0, 0
        unit.append(number)
        count, size_bytes = count + int(rows[number]), size_bytes + entry.size_bytes
    if unit:
        yield tuple(unit)


def _kept(inventory: Inventory, live: Array, taken: Array, again: Array) -> Array:
    """The packs that stay as they are: with anything that is needed, if only by a frame that is not but stays too."""
    kept = np.zeros(len(taken), bool)
    while True:
        needed = inventory.with_bases(live | kept[inventory.pack], again) & ~again
        more = (np.bincount(inventory.pack[needed], minlength=len(taken)) > 0) & ~taken
        if (more == kept).all():
            return kept
        kept = more


def _completed(inventory: Inventory, group: Group, needed: Array) -> Group:
    """A group with the frames that move as they are: what is needed, if only by what stays elsewhere."""
    inside = np.zeros(len(inventory.packs), bool)
    inside[list(group.packs)] = True
    return Group(group.packs, np.flatnonzero(needed & inside[inventory.pack]), group.families)


def _sparse(needed: Array, sizes: Array, left: Array, allowed: int) -> Array:
    """Packs of which little is needed, the least first, as far as is allowed."""
    dead = sizes - needed
    chosen = np.zeros(len(sizes), bool)
    for number in np.argsort(needed / np.maximum(dead, 1), kind="stable"):
        wanted = int(needed[number])
        if left[number] and 0 < wanted <= min(allowed, _WORTH * int(dead[number])):
            chosen[number] = True
            allowed -= wanted
    return chosen


def _small(inventory: Inventory, needed: Array, sizes: Array, left: Array) -> Array:
    """Many small packs, of data and of metadata apart: so many of the smallest that none outweighs those before it."""
    chosen = np.zeros(len(sizes), bool)
    data = inventory.table["kind"] == Kind.CHUNK
    has_data = np.bincount(inventory.pack[data], minlength=len(sizes)) > 0
    used = np.bincount(inventory.pack[needed], minlength=len(sizes)) > 0
    for kind in (has_data, ~has_data):
        numbers = np.flatnonzero(kind & used & left & (sizes < _SMALL))
        numbers = numbers[np.argsort(sizes[numbers], kind="stable")]
        before = np.cumsum(sizes[numbers]) - sizes[numbers]
        fitting = np.flatnonzero(sizes[numbers] <= before)
        if len(fitting) and fitting[-1] >= _FEW:
            chosen[numbers[: fitting[-1] + 1]] = True
    return chosen


def _rebasing(inventory: Inventory, reached: Live, used: Array, *, deep: bool) -> list[tuple[Group, bool]]:
    """Groups of packs with families to encode anew, and whether a tip asks for it; the most worthwhile first.

    A group has all packs with any frame of its families: none may stay that hangs on a version that is no more.
    """
    live, tips = reached.marked, reached.tips
    root = _roots(inventory)
    chunk = inventory.table["kind"] == Kind.CHUNK
    count = len(inventory)
    hanging = np.zeros(count, bool)  # these three by root
    hanging[root[inventory.with_bases(live) & ~live]] = True
    forced = np.zeros(count, bool)
    forced[root[tips & chunk & (inventory.base >= 0)]] = True
    forced &= (np.bincount(root[tips & chunk], minlength=count) == 1) | hanging
    if deep:
        forced[root[live & chunk & (inventory.base >= 0)]] = True
    wanted = hanging | forced
    involved = chunk & wanted[root] & used[inventory.pack]
    if not involved.any():
        return []
    pairs = np.unique(np.stack([root[involved], inventory.pack[involved].astype(np.int64)], 1), axis=0)
    leader = _joined(pairs, len(inventory.packs))
    packs: dict[int, list[int]] = {}
    for number in np.unique(pairs[:, 1]).tolist():
        packs.setdefault(leader[number], []).append(number)
    families: dict[int, list[Array]] = {}
    members = np.flatnonzero(live & chunk & wanted[root])
    members = members[np.lexsort((reached.rank[members], root[members]))]
    for family in np.split(members, np.flatnonzero(np.diff(root[members])) + 1):
        families.setdefault(leader[int(inventory.pack[family[0]])], []).append(family)
    kept = inventory.sums(live)
    found = []
    for first, numbers in packs.items():
        group = Group(tuple(numbers), np.zeros(0, np.int64), tuple(families[first]))
        rewritten = int(kept[numbers].sum())
        gained = sum(inventory.packs[number].size_bytes for number in numbers) - rewritten
        asked = any(forced[root[family[0]]] for family in group.families)
        found.append((rewritten / max(gained, 1), group, asked))
    found.sort(key=lambda one: one[0])
    return [(group, asked) for _, group, asked in found]


def _roots(inventory: Inventory) -> Array:
    """For each frame the one without a base that it hangs on in the end."""
    root = np.where(inventory.base < 0, np.arange(len(inventory)), inventory.base)
    while True:
        further = root[root]
        if (further == root).all():
            return root
        root = further


def _joined(pairs: Array, packs: int) -> list[int]:
    """For each pack the first of those that families join it with."""
    leader = list(range(packs))

    def find(number: int) -> int:
        while leader[number] != number:
            leader[number] = leader[leader[number]]
            number = leader[number]
        return number

    before: tuple[int, int] | None = None
    for family, number in pairs.tolist():
        if before is not None and before[0] == family:
            low, high = sorted((find(before[1]), find(number)))
            leader[high] = low
        before = (family, number)
    return [find(number) for number in range(packs)]


def _leaving(inventory: Inventory, chosen: Array) -> tuple[int, ...]:
    """Chosen packs in an order in which none goes before those that hang on it, as far as there is one.

    So a gc that is interrupted leaves no deltas without their bases.
    """
    deltas = np.flatnonzero(chosen[inventory.pack] & (inventory.base >= 0))
    pairs = np.unique(np.stack([inventory.pack[deltas], inventory.pack[inventory.base[deltas]]], 1), axis=0)
    pairs = pairs[(pairs[:, 0] != pairs[:, 1]) & chosen[pairs[:, 1]]]
    waits_for = np.bincount(pairs[:, 1], minlength=len(chosen)).tolist()
    bases: dict[int, list[int]] = {}
    for number, base in pairs.tolist():
        bases.setdefault(number, []).append(base)
    left = np.flatnonzero(chosen).tolist()
    ready = [number for number in left if not waits_for[number]]
    order: list[int] = []
    while ready:
        order.append(ready.pop())
        for base in bases.get(order[-1], ()):
            waits_for[base] -= 1
            if not waits_for[base]:
                ready.append(base)
    return (*order, *(number for number in left if waits_for[number]))
