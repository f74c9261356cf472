"""Makes trees that were never written: at random, or from real ones by changing what they say."""

from __future__ import annotations

import collections
import random
from typing import Any

import numpy as np
import torch

from ckstore.digest import ID_SIZE, Kind, object_id
from ckstore.objects import leaf, tree
from ckstore.objects.tree import CHUNK_SIZE, Entry, InSlab, Slab, Tensor, Tree, Whole
from tests.memory_reader import MemoryReader
from tests.strategies import Point

DATA = bytes(range(256)) * 4
CHUNK = object_id(Kind.CHUNK, DATA)
BIG = bytes(CHUNK_SIZE)
BIG_CHUNK = object_id(Kind.CHUNK, BIG)
NO_CHUNK = b"\x07" * ID_SIZE
READER = MemoryReader({(Kind.CHUNK, CHUNK): DATA, (Kind.CHUNK, BIG_CHUNK): BIG})
"""Holds what these trees may rightly name: CHUNK and BIG_CHUNK, but not NO_CHUNK."""

HUGE = 1 << 62

NUMBERS = [-1, 0, 0, 1, 1, 2, 3, 4, 255, 1 << 31, HUGE, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -(1 << 63)]
NAMES = [
    "float32",
    "int8",
    "uint4",
    "bool",
    "complex64",
    "qint8",
    "quint4x2",
    "bits8",
    "float8_e8m0fnu",
    "bfloat16",
    "nn",
    "",
]
NUMPY = [
    "<f4",
    "|O",
    "<U3",
    "|S0",
    "<M8[ns]",
    "[('a', '<i2'), ('b', '|V3')]",
    "2<f4",
    "|V0",
    "{}",
    "[]",
    "()",
    "<U0",
    ">c16",
]
CONSTANTS = ["sparse_coo", "sparse_csr", "sparse_bsc", "strided", "channels_last", "float32", "Tensor", "__file__"]
KINDS = ["dict", "OrderedDict", "Counter", "defaultdict", "set", "frozenset", "tuple", "torch.Size", ""]
GENERATORS = ["torch.Generator", "random.Random", "numpy.random.Generator", "numpy.random.RandomState", "x"]


class Maker:
    """Random trees whose counts mostly agree, and whose content mostly does not."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def tree(self) -> Tree:
        entries: list[Entry] = []
        self._value(entries, None, 0)
        slabs = tuple(Slab(self._name(), self._length(), self._ids()) for _ in range(self._random.randrange(3)))
        return Tree(CHUNK_SIZE, slabs, tuple(entries))

    def _pick(self, some: list[Any]) -> Any:
        return self._random.choice(some)

    def _name(self) -> str:
        return self._pick(NAMES) if self._random.random() < 0.4 else "float32"

    def _numbers(self) -> tuple[int, ...]:
        if self._random.random() < 0.6:
            return tuple(self._random.randrange(4) for _ in range(self._random.randrange(4)))
        return tuple(self._pick(NUMBERS) for _ in range(self._random.randrange(4)))

    def _length(self) -> int:
        return int(self._pick([0, 4, len(DATA), len(DATA), CHUNK_SIZE, *NUMBERS]))

    def _ids(self) -> bytes:
        return bytes(self._pick([b"", CHUNK, CHUNK, CHUNK, BIG_CHUNK, NO_CHUNK, CHUNK * 2, CHUNK[:5]]))

    def _blob(self) -> leaf.Blob:
        if self._random.random() < 0.7:
            return self._random.randbytes(self._pick([0, 1, 4, 8, 12, 16]))
        return leaf.Chunks(self._length(), self._ids())

    def _data(self) -> Whole | InSlab:
        if self._random.random() < 0.5:
            return Whole(len(DATA), CHUNK) if self._random.random() < 0.7 else Whole(self._length(), self._ids())
        return InSlab(
            self._pick([0, 0, 0, 1, *NUMBERS]), self._pick([0, 0, 8, *NUMBERS]), self._pick([8, 24, *NUMBERS])
        )

    def _leaf(self) -> Any:
        flags = self._random.randrange(4)
        strides = None if self._random.random() < 0.5 else self._numbers()
        return self._pick(
            [
                lambda: Tensor(
                    self._name(), self._numbers(), strides, self._pick([0, 0, *NUMBERS]), self._data(), flags
                ),
                lambda: tree.Alias(
                    self._name(), self._numbers(), strides, self._pick(NUMBERS), self._pick(NUMBERS), flags
                ),
                lambda: leaf.NumpyArray(self._pick(NUMPY), self._numbers(), flags > 1, self._blob()),
                lambda: leaf.NumpyScalar(self._pick(NUMPY), self._blob()),
                lambda: leaf.Bytes(self._blob(), flags > 1),
                lambda: leaf.Text(self._blob()),
                lambda: leaf.BigInt(self._blob()),
                lambda: leaf.Float(self._random.randbytes(8 - flags // 3)),
                lambda: leaf.Complex(self._random.randbytes(16 - flags // 3)),
                lambda: leaf.FilePath(
                    self._pick(["Path", "PurePosixPath", "PureWindowsPath", "x"]), self._pick(["a", "\0", ""])
                ),
                lambda: leaf.Dtype(self._pick(NAMES)),
                lambda: leaf.Device(self._pick(["cpu", "cuda:99", "meta", "cuda:-1", "\0", "", "cpu:1:2"])),
                lambda: leaf.TorchConstant(self._pick(CONSTANTS)),
                lambda: leaf.Pickled(self._blob()),
                lambda: tree.File(self._pick(NUMBERS), 0, 0, self._blob(), (), ()),
                lambda: self._pick([None, True, "text", *[n for n in NUMBERS if n < 1 << 64]]),
            ]
        )()

    def _key(self, depth: int = 0) -> Any:
        if self._random.random() < 0.2 and depth < 4:
            return leaf.TupleKey(tuple(self._key(depth + 1) for _ in range(self._random.randrange(3))))
        made = self._leaf()
        known = (int, str, leaf.Bytes, leaf.Float, leaf.Complex, leaf.BigInt, leaf.Text, leaf.Dtype, leaf.NumpyScalar)
        return made if isinstance(made, known) else self._pick(["a", "b", 1, None])

    def _value(self, entries: list[Entry], key: Any, depth: int) -> None:
        if depth > 4 or self._random.random() < 0.35:
            entries.append(Entry(key, self._leaf()))
            return
        count = self._random.randrange(4)
        says = count if self._random.random() < 0.98 else self._pick(NUMBERS)
        kind = self._pick(KINDS)
        fields = tuple(self._pick(["x", "y", "z", "class", "_"]) for _ in range(count))
        layout = self._pick(CONSTANTS)
        made, children = self._pick(
            [
                lambda: (tree.List(says), count),
                lambda: (tree.Tuple(kind, says), count),
                lambda: (tree.Dict(kind, says, self._pick([None, "", "int", "x"]), False), count),
                lambda: (tree.Dict(kind, says, None, True), count + 1),
                lambda: (tree.Set(kind, says), count),
                lambda: (tree.Deque(says, self._pick([None, *NUMBERS])), count),
                lambda: (tree.NamedFields("tests.strategies", self._pick(["Point", "x", ""]), fields), count),
                lambda: (tree.RngState(self._pick(GENERATORS)), 1),
                lambda: (tree.Sparse(layout, self._numbers(), count > 1, count, 2 + count // 2), 2 + count // 2),
                lambda: (tree.Wrapper("torch", self._pick(["Tensor", "nn.Parameter", "x"]), fields, (), ()), count + 1),
                lambda: (tree.Encoded("x"), 1),
            ]
        )()
        entries.append(Entry(key, made))
        for _ in range(children):
            self._value(entries, self._key(), depth + 1)


def rich_state() -> dict[str, object]:
    """Something of everything."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(4, 5))
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    generator, philox = np.random.default_rng(1), np.random.Generator(np.random.Philox(1))
    fortran = np.asfortranarray(np.ones((3, 2), ">i2"))
    defaulting: collections.defaultdict[str, list[int]] = collections.defaultdict(list, a=[1])
    return {
        "model": model,
        "optimizer": optimizer,
        "ties": [weight, weight.detach()[1:], weight.detach().t(), torch.randn(3, 4).t(), torch.zeros(1).expand(5)],
        "sparse": [torch.eye(3).to_sparse(), torch.eye(4).to_sparse_csr(), torch.eye(4).to_sparse_bsr((2, 2))],
        "rng": [torch.Generator(), generator, random.Random(1), np.random.RandomState(2), philox],
        "leaves": [2**100, "\ud800", -0.0, 1j, b"x", bytearray(b"y"), torch.float32, torch.device("cpu"), bytes(5000)],
        "arrays": [np.arange(6.0).reshape(2, 3), fortran, np.zeros(2, "M8[s]"), np.array("ab"), np.float32(1)],
        "kinds": [{1, (2, "x")}, collections.Counter("aab"), collections.deque([1], 3), Point(1, 2), defaulting],
        "keys": {1: 1, 1.5: 2, (1, None): 3, b"k": 4, np.int64(3): 5, torch.int8: 6},
    }  # fmt: skip


def changed(hostile: Tree, changing: random.Random) -> Tree:
    """One field of one entry with another value, or an entry left out, doubled or swapped."""
    entries = list(hostile.entries)
    place = changing.randrange(len(entries))
    act = changing.random()
    if act < 0.05:
        del entries[place]
    elif act < 0.1:
        entries.insert(place, changing.choice(entries))
    elif act < 0.2:
        entries[place] = Entry(entries[place].key, changing.choice(entries).value)
    else:
        entries[place] = Entry(entries[place].key, other(entries[place].value, changing))
    return Tree(hostile.chunk_size, hostile.slabs, tuple(entries))


def other(value: Any, changing: random.Random) -> Any:
    """A value of the same type, more or less."""
    if isinstance(value, bool) or value is None:
        return changing.choice([None, True, 0, "x"])
    if isinstance(value, int):
        return changing.choice([value + 1, value - 1, *NUMBERS])
    if isinstance(value, str):
        return changing.choice([value + "x", value[1:], *NAMES, *CONSTANTS, *KINDS, *GENERATORS])
    if isinstance(value, bytes):
        cut = changing.randrange(len(value) + 1)
        return changing.choice([value[:cut], value + b"\0", value[:cut] + b"\xff" + value[cut + 1 :]])
    if isinstance(value, tuple):
        if not value or changing.random() < 0.2:
            return (*value, 1) if not value or isinstance(value[0], int) else value[1:]
        place = changing.randrange(len(value))
        return (*value[:place], other(value[place], changing), *value[place + 1 :])
    fields = list(value.__struct_fields__)
    if not fields:
        return value
    name = changing.choice(fields)
    return type(value)(
        **{each: getattr(value, each) for each in fields} | {name: other(getattr(value, name), changing)}
    )
