"""Tree: one component's whole structure, as a flat list of entries in pre-order.

A container is a header entry that says how many entries of its own follow as children; a tensor or leaf is
one entry. A component is thus read and written with a stack and a loop, whatever its depth, and a tree of
more than PAGE_LIMIT bytes is cut between any two entries into pages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

from ckstore.digest import ID_SIZE
from ckstore.errors import Format
from ckstore.objects.leaf import MAX_KEY_DEPTH, Blob, Chunks, Key, Leaf, TupleKey

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CHUNK_SIZE = 1 << 20
"""Bytes a chunk holds at most; kept in every tree."""

MAX_CHUNK_SIZE = 16 << 20
"""Chunks longer than this are refused, whatever a tree says."""

SLAB_LIMIT = 64 << 10
"""Spans shorter than this many bytes are joined into slabs."""

MAX_ENTRIES = 1 << 24
"""Entries of one component, at most."""

MAX_DEPTH = 200
"""Containers inside containers, at most."""

PARAMETER = 1
"""Flag of a tensor: it was an `nn.Parameter`."""

REQUIRES_GRAD = 2
"""Flag of a tensor: `requires_grad` was set."""


class List(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=20):
    count: int


class Tuple(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=21):
    """A tuple; `kind` is `tuple` or `torch.Size`."""

    kind: str
    count: int


class Dict(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=22):
    """`count` children, each with its key, in insertion order.

    `kind` is dict, OrderedDict, defaultdict or Counter; `factory` a defaultdict's, from a closed list.
    Where `attributes` is set, the last child is a dict of the instance's attributes (`state_dict()._metadata`).
    """

    kind: str
    count: int
    factory: str | None = None
    attributes: bool = False


class Set(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=23):
    """A set or frozenset; children in the order of their canonical bytes."""

    kind: str
    count: int


class NamedFields(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=24):
    """A named tuple: where its class lives, and its field names, one child each."""

    module: str
    name: str
    fields: tuple[str, ...]


class Deque(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=25):
    count: int
    maxlen: int | None


class RngState(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=26):
    """A random generator object: `kind` names its class; its only child is its state."""

    kind: str


class Sparse(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=27):
    """A sparse tensor by its parts: indices and values (COO), or compressed indices, plain indices and values."""

    layout: str
    shape: tuple[int, ...]
    coalesced: bool
    flags: int
    count: int


class Wrapper(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=28):
    """A wrapper subclass of Tensor (`__tensor_flatten__`): its inner tensors by `names`, its context last."""

    module: str
    name: str
    names: tuple[str, ...]
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Encoded(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=29):
    """An object of a registered class: the encoder's name; its only child is what the encoder made of it."""

    name: str


class Whole(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=30):
    """Bytes of a span of its own, cut into chunks from the span's first byte."""

    length: int
    ids: bytes


class InSlab(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=31):
    """Bytes of a short span: `length` bytes at `start` of the component's slab number `slab`."""

    slab: int
    start: int
    length: int


class Tensor(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=32):
    """The first tensor on its storage.

    `shape` and `strides` count elements (`strides` is None for a contiguous tensor), `offset` is its first
    element's distance from the span's first byte, in bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    offset: int
    data: Whole | InSlab
    flags: int


class Alias(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=33):
    """A later tensor on a storage that entry number `owner` of the same component holds."""

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    offset: int
    owner: int
    flags: int


class Segment(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """`gap` bytes of the file's own, then `length` bytes at `start` of the span of entry `entry` of a component."""

    gap: int
    component: int
    entry: int
    start: int
    length: int


class File(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=34):
    """A file, byte for byte: `gaps` holds what no tensor holds, `segments` the order of both; `size` bytes in all.

    `components` names the components whose spans the segments take; `mode` and `mtime_ns` as `os.stat` gives them.
    """

    size: int
    mode: int
    mtime_ns: int
    gaps: Blob
    components: tuple[str, ...]
    segments: tuple[Segment, ...]


class Folder(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=35):
    """A folder among committed files."""

    mode: int
    mtime_ns: int


class Link(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=36):
    """A symbolic link among committed files, to another of them: its text as the system's bytes."""

    target: bytes


Container = List | Tuple | Dict | Set | NamedFields | Deque | RngState | Sparse | Wrapper | Encoded

Value = Leaf | Container | Tensor | Alias | File | Folder | Link


class Entry(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One node of the structure. `key` is None where the parent is no dictionary."""

    key: Key
    value: Value


class Slab(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Short spans of one dtype, concatenated in byte order of their owners' paths and cut into chunks."""

    dtype: str
    length: int
    ids: bytes


class PageRef(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A run of `count` entries kept in an object of its own."""

    id: bytes
    count: int


class Tree(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=1):
    """The object a commit names for a component. Either `entries` or `pages` is empty."""

    chunk_size: int
    slabs: tuple[Slab, ...]
    entries: tuple[Entry, ...]
    pages: tuple[PageRef, ...] = ()


class Page(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=2):
    """A run of entries of a tree that is too long for one object."""

    entries: tuple[Entry, ...]


PAGE_LIMIT = 1 << 20
"""A tree whose canonical bytes are more than this is cut into pages of about half as many."""

TreeObject = Tree | Page

ATTRIBUTES = "<attributes>"
"""Stands in paths for the attributes of a dict's class."""

PathKeys = tuple[object, ...]


class Node(NamedTuple):
    """An entry with its place: `ordinal` in the tree, `keys` from the component's root (list positions as ints)."""

    ordinal: int
    keys: PathKeys
    entry: Entry


def children(value: object) -> int:
    """How many entries follow `value` as its direct children; 0 for what is no container."""
    if isinstance(value, Dict):
        return value.count + value.attributes if value.count >= 0 else -1
    if isinstance(value, (List, Tuple, Set, Deque, Sparse)):
        return value.count
    if isinstance(value, NamedFields):
        return len(value.fields)
    if isinstance(value, Wrapper):
        return len(value.names) + 1
    if isinstance(value, (RngState, Encoded)):
        return 1
    return 0


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides in elements that torch gives a new tensor of `shape`."""
    strides = []
    step = 1
    for n in reversed(shape):
        strides.append(step)
        step *= max(n, 1)
    return tuple(reversed(strides))


def walk(entries: Sequence[Entry]) -> Iterator[Node]:
    """All entries with their places. Raises `Format` where the counts do not describe exactly one value."""
    open_containers: list[tuple[object, int, int]] = []
    keys: list[object] = []
    for ordinal, entry in enumerate(entries):
        if ordinal and not open_containers:
            raise Format("a tree holds entries beyond its root")
        if open_containers:
            parent, done, count = open_containers[-1]
            keys.append(_place(parent, done, entry))
            open_containers[-1] = (parent, done + 1, count)
        yield Node(ordinal, tuple(keys), entry)
        count = children(entry.value)
        if count < 0:
            raise Format("a container in a tree has a negative length")
        if count:
            if len(open_containers) >= MAX_DEPTH:
                raise Format(f"a tree nests more than {MAX_DEPTH} containers")
            open_containers.append((entry.value, 0, count))
            continue
        while open_containers and open_containers[-1][1] == open_containers[-1][2]:
            open_containers.pop()
            if keys:
                keys.pop()
        if open_containers and keys:
            keys.pop()
    if open_containers or not entries:
        raise Format("a tree ends before its structure does")


def _place(parent: object, done: int, entry: Entry) -> object:
    if isinstance(parent, Dict):
        return plain_key(entry.key) if done < parent.count else ATTRIBUTES
    if isinstance(parent, NamedFields):
        return parent.fields[done]
    if isinstance(parent, Wrapper):
        return parent.names[done] if done < len(parent.names) else "<context>"
    if isinstance(parent, (RngState, Encoded)):
        return "state"
    return done


def plain_key(key: Key, depth: int = 0) -> object:
    """A key as a person would write it in a path; only for display and matching. Raises `Format` for one too deep."""
    if isinstance(key, (str, int)) or key is None:
        return key
    if isinstance(key, TupleKey):
        if depth >= MAX_KEY_DEPTH:
            raise Format(f"a key in a tree nests more than {MAX_KEY_DEPTH} tuples")
        return f"({', '.join(str(plain_key(item, depth + 1)) for item in key.items)})"
    return repr(key)


def dotted(keys: PathKeys) -> str:
    """The path of an entry as people write it: `state.0.exp_avg`. Can always be encoded."""
    text = ".".join(_shown(key) for key in keys)
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _shown(key: object) -> str:
    try:
        return str(key)
    except ValueError:  # an integer with more digits than Python is willing to write
        return "<number>"


def run_of(value: Value) -> bytes:
    """All chunk ids that `value` itself names, one after another, slabs apart."""
    blob: object = None
    if isinstance(value, Tensor):
        blob = value.data
    elif isinstance(value, File):
        blob = value.gaps
    elif isinstance(value, Struct):
        blob = getattr(value, "data", None)
    return blob.ids if isinstance(blob, (Whole, Chunks)) else b""


def spans(value: Value) -> tuple[bytes, ...]:
    """The single ids of `run_of`."""
    return split_ids(run_of(value))


def split_ids(ids: bytes) -> tuple[bytes, ...]:
    """The single ids of a run of concatenated ones."""
    return tuple(ids[start : start + ID_SIZE] for start in range(0, len(ids), ID_SIZE))


def check_run(length: int, ids: bytes, chunk_size: int) -> None:
    """Raise `Format` unless `ids` names exactly the chunks that `length` bytes have."""
    if length < 0 or chunk_size < 1 or len(ids) != -(-length // chunk_size) * ID_SIZE:
        raise Format("a tree names the wrong number of chunks for its length")
