"""Every frame of a repository at one moment, as arrays: what gc counts on.

It is read from the packs' own tables, each under its digest, and not from the index: what is about to be removed for
good is judged by what is written, and a table that cannot be read stops it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ckstore.digest import ID_SIZE, NO_ID, Kind
from ckstore.errors import Format, Integrity
from ckstore.pack.format import FRAME_HEADER_SIZE, ROW_SIZE, Frame
from ckstore.pack.reader import read_table
from ckstore.storage.location import Location

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ckstore.storage.journal import Cursor
    from ckstore.storage.record import PackEntry, Target
    from ckstore.storage.store import Store

Array = np.ndarray[Any, np.dtype[Any]]

PER_OBJECT = FRAME_HEADER_SIZE + ROW_SIZE
"""Bytes that each object takes in a pack beside its payload."""

_ID = np.dtype("V32")
_HALVED = np.dtype([("first", ">u8"), ("rest", "V24")])
_ROW = np.dtype(
    [
        ("id", "V32"),
        ("base", "V32"),
        ("offset", "<u8"),
        ("raw", "<u4"),
        ("stored", "<u4"),
        ("version", "<u4"),
        ("busy", "<u4"),
        ("kind", "u1"),
        ("codec", "u1"),
        ("width", "u1"),
        ("", "u1"),
    ]
)
_AT_ONCE = 1 << 17
_REMEMBERED = 64 << 20
_PER_RUN = 96  # bytes that a set takes for one beside its ids


@dataclass(frozen=True)
class Inventory:
    """Frames sorted by id, those of one object by version and then as they came: the first has the index row.

    `end` is the end of the record up to which packs are counted, `refs` is where refs were then: what they lead to is
    in these packs, however long reading them takes. `pack` numbers them in `packs`. `base` is the place of what a
    frame is kept against, -1 where it is kept by itself.
    """

    end: Cursor
    refs: Mapping[str, Target]
    packs: Sequence[PackEntry]
    table: Array
    pack: Array
    base: Array
    _prefixes: Array

    def __len__(self) -> int:
        return len(self.table)

    def find(self, ids: Array) -> Array:
        """The places of the objects `ids` (32 bytes each); -1 where there is none."""
        wanted = _prefixes_of(ids)
        places = np.empty(len(ids), np.int64)
        order = np.argsort(wanted)  # neighbours are found where the last one was
        places[order] = np.searchsorted(self._prefixes, wanted[order])
        while True:
            inside = places < len(self.table)
            held = np.where(inside, places, 0)
            if not len(self.table):
                return np.full(len(ids), -1, np.int64)
            same = inside & (self._prefixes[held] == wanted)
            right = same & (self.table["id"][held] == ids)
            if (right | ~same).all():
                return np.where(right, places, -1)
            places = np.where(right | ~same, places, places + 1)  # ids that begin alike

    def find_all(self, ids: Iterable[bytes]) -> Array:
        """The places of single ids."""
        return self.find(np.frombuffer(b"".join(ids), _ID))

    @property
    def size_bytes(self) -> Array:
        """What each frame takes in its pack."""
        return self.table["stored"].astype(np.int64) + PER_OBJECT

    def sums(self, chosen: Array) -> Array:
        """Bytes of the chosen frames of each pack."""
        return np.bincount(self.pack[chosen], self.size_bytes[chosen], len(self.packs)).astype(np.int64)

    def with_bases(self, chosen: Array, cut: Array | None = None) -> Array:
        """`chosen` with all that they are kept against, and those are, and so on; beyond frames of `cut` nothing."""
        needed = chosen.copy()
        base = self.base if cut is None else np.where(cut, -1, self.base)
        new = np.flatnonzero(chosen)
        while len(new):
            bases = np.unique(base[new])
            bases = bases[bases >= 0]
            new = bases[~needed[bases]]
            needed[new] = True
        return needed

    def closure(self, ids: bytes) -> Array:
        """The places of a run of ids and of all that they are kept against, each once. Unknown ones are left out."""
        places = self.find(np.frombuffer(ids, _ID))
        found = new = np.unique(places[places >= 0])
        while len(new):
            bases = np.unique(self.base[new])
            new = np.setdiff1d(bases[bases >= 0], found, assume_unique=True)
            found = np.union1d(found, new)
        return found

    def location(self, place: int) -> Location:
        """A frame as the index would name it."""
        row = self.table[place]
        base = bytes(row["base"])
        kind, codec, width = Kind(int(row["kind"])), int(row["codec"]), int(row["width"])
        lengths = (int(row["raw"]), int(row["stored"]))
        frame = Frame(kind, codec, width, bytes(row["id"]), *lengths, base, int(row["version"]), int(row["busy"]))
        return Location(self.packs[int(self.pack[place])].name, int(row["offset"]), frame)


class Live(NamedTuple):
    """The objects that commits need, those that tips of branches do, and what each is: `labels[label]`, or -1.

    A label is a component and a dtype. `rank` numbers the commits, the newest first: the first that names each object.
    """

    marked: Array
    tips: Array
    label: Array
    rank: Array
    labels: list[tuple[str, str]]


class Marker:
    """Marks objects of an inventory by their ids, many at once: see `Live`."""

    def __init__(self, inventory: Inventory) -> None:
        self.label = np.full(len(inventory), -1, np.int32)
        self.rank = np.full(len(inventory), np.iinfo(np.int32).max, np.int32)
        self.labels: list[tuple[str, str]] = []
        self.missing: list[bytes] = []
        self._inventory = inventory
        self._numbers: dict[tuple[str, str], int] = {}
        self._pending: dict[int, list[tuple[bytes, int]]] = {}
        self._seen: set[bytes] = set()
        self._seen_bytes = 0
        self._length = 0

    def add(self, ids: bytes, component: str, dtype: str, rank: int) -> None:
        """Mark a run of ids, one after another; a run that came before costs nothing. Ranks never fall."""
        if ids in self._seen:
            return
        self._seen.add(ids)
        self._seen_bytes += len(ids) + _PER_RUN
        label = (component, dtype)
        number = self._numbers.setdefault(label, len(self.labels))
        if number == len(self.labels):
            self.labels.append(label)
        self._pending.setdefault(number, []).append((ids, rank))
        self._length += len(ids)
        if self._length >= _AT_ONCE * ID_SIZE:
            self.flush()

    def flush(self) -> Array:
        """What is marked so far. Ids that are in no pack are in `missing`."""
        for number, runs in self._pending.items():
            ids = np.frombuffer(b"".join(run for run, _ in runs), _ID)
            ranks = np.repeat([rank for _, rank in runs], [len(run) // ID_SIZE for run, _ in runs])
            places = self._inventory.find(ids)
            found = places[places >= 0]
            self.label[found[self.label[found] < 0]] = number
            np.minimum.at(self.rank, found, ranks[places >= 0].astype(np.int32))
            self.missing += [bytes(id) for id in ids[places < 0]]
        self._pending.clear()
        self._length = 0
        if self._seen_bytes > _REMEMBERED:
            self._seen.clear()
            self._seen_bytes = 0
        return self.label >= 0


def take_inventory(store: Store) -> Inventory:
    """Read the tables of all packs. Raises `Integrity` where one cannot be read."""
    store.refresh()
    end, refs, packs = store.ask(lambda view: (view.cursor(store.index.id), view.refs(), view.packs()))
    if end is None:
        raise Integrity("the index is empty", hint="open the repository again")
    table, pack, prefixes = _sorted(*_tables(store, packs))
    while True:
        found = Inventory(end, refs, packs, table, pack, np.full(len(table), -1, np.int64), prefixes)
        deltas = np.flatnonzero(table["base"] != np.frombuffer(NO_ID, _ID)[0])
        bases = found.find(np.ascontiguousarray(table["base"][deltas]))
        suits = (bases >= 0) & (table["version"][bases] < table["version"][deltas])
        found.base[deltas] = bases
        if suits.all():
            return found
        # A frame that nothing can be made of has no row in the index either.
        readable = np.ones(len(table), bool)
        readable[deltas[~suits]] = False
        table, pack, prefixes = table[readable], pack[readable], prefixes[readable]


def _tables(store: Store, packs: Sequence[PackEntry]) -> tuple[Array, Array]:
    """All rows in the order of their packs, and the number of each one's pack."""
    joined = bytearray()
    rows = []
    for entry in packs:
        table = _table(store, entry)
        joined += table
        rows.append(len(table) // ROW_SIZE)
    return np.frombuffer(joined, _ROW), np.repeat(np.arange(len(packs), dtype=np.int32), rows)


def _sorted(table: Array, pack: Array) -> tuple[Array, Array, Array]:
    """Rows, their packs and the prefixes of their ids, in an inventory's order.

    Rows of one object come in the order of their packs, and in that of their offsets in each: sorting is stable.
    """
    prefixes = _prefixes_of(table["id"])
    order = np.lexsort((table["version"], prefixes))
    return table[order], pack[order], prefixes[order]


def _table(store: Store, entry: PackEntry) -> bytes:
    try:
        sealed, table = read_table(store.packs.get(entry.name))
    except (OSError, Format) as error:
        raise Integrity(
            f"{entry.name.hex()}.pack cannot be read: {error}", hint="`ckstore repair` mends what can be mended"
        ) from error
    if sealed != (entry.name, entry.digest, entry.size_bytes):
        raise Integrity(f"{entry.name.hex()}.pack is not the pack the journal names", hint="`ckstore repair`")
    return table


def _prefixes_of(ids: Array) -> Array:
    """The first eight bytes of ids as numbers in their order."""
    firsts = np.ascontiguousarray(ids.view(_HALVED)["first"])
    return firsts.astype(np.uint64)
