"""Trees that were made to harm: only ckstore's errors come out, nothing runs, no memory is taken on their word."""

from __future__ import annotations

import random
import resource
import tracemalloc
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import ckstore
from ckstore.digest import Kind
from ckstore.errors import Format, Integrity, InvalidInput
from ckstore.objects import leaf, tree
from ckstore.objects.encoding import decode_tree, encode
from ckstore.objects.reader import read_tree
from ckstore.objects.structure import Structure
from ckstore.objects.tree import CHUNK_SIZE, Entry, InSlab, Slab, Tensor, Tree, Whole, walk
from ckstore.torch.flatten import flatten
from ckstore.torch.lazy import LazyTensor, Section, lazy
from ckstore.torch.unflatten import unflatten
from tests.memory_reader import MemoryReader, everything
from tests.tree_maker import BIG_CHUNK, CHUNK, DATA, HUGE, NO_CHUNK, READER, Maker, changed, rich_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")

REFUSALS = (Format, Integrity, InvalidInput)
GENERATED = 25_000
MUTATED = 10_000


def opened(hostile: Tree, reader: MemoryReader = READER) -> None:
    """Do all that a user may do with a tree. Raises what comes of it, if that is not a refusal."""
    try:
        data = encode(hostile)
    except OverflowError:  # integers past 64 bits have no bytes
        return
    try:
        structure = Structure("c", read_tree(MemoryReader({(Kind.TREE, CHUNK): data}), CHUNK))
    except REFUSALS:
        return
    acts: list[Callable[[], object]] = [
        lambda: unflatten(structure, reader),
        lambda: unflatten(structure, reader, wanted=structure.selected(["*1*"])),
        lambda: touched(lazy(structure, reader)),
    ]
    for act in acts:
        try:
            act()
        except REFUSALS:
            continue


def touched(value: object) -> None:
    if isinstance(value, Section):
        for key in value.keys()[:3]:
            touched(value[key])
    elif isinstance(value, LazyTensor) and value.shape:
        assert repr(value)
        _ = value[:1]


def one(value: Any, *more: Entry, slabs: tuple[Slab, ...] = (), chunk_size: int = CHUNK_SIZE) -> Tree:
    return Tree(chunk_size, slabs, (Entry(None, value), *more))


@contextmanager
def scarce(extra_bytes: int) -> Iterator[None]:
    """At most so much more address space for the body."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        now = int(statm.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + extra_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


# Trees made one by one


def tensor(**changes: Any) -> Tensor:
    """A float32 tensor of 2 x 3 on one chunk, with changes."""
    said: dict[str, Any] = {
        "dtype": "float32", "shape": (2, 3), "strides": None, "offset": 0, "data": Whole(len(DATA), CHUNK), "flags": 0,
    } | changes  # fmt: skip
    return Tensor(**said)


SLAB = Slab("float32", len(DATA), CHUNK)
LEAF = Entry(None, 1)


def parts(
    *values: Any, layout: str = "sparse_coo", shape: tuple[int, ...] = (3, 4), flags: int = 0, coalesced: bool = False
) -> Tree:
    return one(tree.Sparse(layout, shape, coalesced, flags, len(values)), *[Entry(None, value) for value in values])


INDEX = tensor(dtype="int64", shape=(2, 1), offset=1016, data=Whole(1032, CHUNK))
ZEROS = Whole(CHUNK_SIZE, BIG_CHUNK)
ONE_INDEX = tensor(dtype="int64", shape=(2, 1), data=ZEROS)
COUNTLESS = tensor(dtype="int64", shape=(2, 1 << 40), strides=(0, 0), data=ZEROS)


def alias(owner: int, count: int = 1) -> Entry:
    return Entry(None, tree.Alias("float32", (count,), None, 0, owner, 0))


def key_tree(key: Any) -> Tree:
    return one(tree.Dict("dict", 1), Entry(key, 1))


def nested_key(levels: int) -> Any:
    key: Any = 1
    for _ in range(levels):
        key = leaf.TupleKey((key,))
    return key


def wild(kind: str, spoil: Callable[[dict[str, Any]], object]) -> Tree:
    """A numpy generator whose state was tampered with."""
    state = getattr(np.random, kind)(1).state
    spoil(state)
    draft = flatten(state, "c")
    entries = [Entry(key, value) for key, value in draft.entries]  # type: ignore[arg-type]
    return one(tree.RngState("numpy.random.Generator"), *entries)


REFUSED: dict[str, Tree] = {
    "no entries": Tree(CHUNK_SIZE, (), ()),
    "an entry beyond the root": one(1, LEAF),
    "a list without its items": one(tree.List(2), LEAF),
    "a negative list": one(tree.List(-1)),
    "a negative dictionary with attributes": one(tree.Dict("dict", -1, None, True)),
    "an endless list": one(tree.List(HUGE), LEAF),
    "too deep": Tree(CHUNK_SIZE, (), (*[Entry(None, tree.List(1))] * 201, LEAF)),
    "far too deep": Tree(CHUNK_SIZE, (), (*[Entry(None, tree.List(1))] * 100_000, LEAF)),
    "unknown dictionary": one(tree.Dict("UserDict", 0)),
    "unknown factory": one(tree.Dict("defaultdict", 0, "eval")),
    "no factory": one(tree.Dict("defaultdict", 0)),
    "a deep key": key_tree(nested_key(20)),
    "a very deep key": key_tree(nested_key(300)),
    "a deep member": one(tree.Set("set", 1), Entry(nested_key(300), None)),
    "a key that cannot be hashed": key_tree(leaf.Bytes(b"a", True)),
    "a tuple that cannot be hashed": key_tree(leaf.TupleKey((leaf.Bytes(b"a", True),))),
    "a member that cannot be hashed": one(tree.Set("set", 1), Entry(leaf.Bytes(b"a", True), None)),
    "a structured key": key_tree(leaf.NumpyScalar("[('a', '<i4')]", bytes(4))),
    "a deque of negative length": one(tree.Deque(0, -1)),
    "a deque of endless length": one(tree.Deque(0, (1 << 64) - 1)),
    "a size of floats": one(tree.Tuple("torch.Size", 1), Entry(None, leaf.Float(bytes(8)))),
    "bad field names": one(tree.NamedFields("m", "n", ("class",)), LEAF),
    "fields twice": one(tree.NamedFields("m", "n", ("a", "a")), LEAF, LEAF),
    "a bad class name": one(tree.NamedFields("m", "", ("a",)), LEAF),
    "a wrapper of no class": one(tree.Wrapper("torch", "Tensor", (), (), ()), LEAF),
    "a wrapper that is not loaded": one(tree.Wrapper("no.such", "Class", (), (), ()), LEAF),
    "an unknown encoder": one(tree.Encoded("no such"), LEAF),
    "a pickle": one(leaf.Pickled(b"cos\nsystem\n(S'true'\ntR.")),
    "an unknown generator": one(tree.RngState("os.urandom"), LEAF),
    "a generator of nothing": one(tree.RngState("torch.Generator"), LEAF),
    "a generator of endless state": one(
        tree.RngState("torch.Generator"),
        Entry(None, tree.Dict("dict", 2)),
        Entry("device", leaf.Device("cpu")),
        Entry("state", tensor(dtype="uint8", shape=(1 << 50,), strides=(0,))),
    ),
    "a numpy generator of endless state": one(
        tree.RngState("numpy.random.RandomState"),
        Entry(None, tree.List(1)),
        Entry(None, leaf.NumpyArray("|V0", (HUGE,), False, b"")),
    ),
    "a generator that points outside its state": wild("MT19937", lambda state: state["state"].update(pos=-(10**8))),
    "a generator that points beyond its state": wild("MT19937", lambda state: state["state"].update(pos=625)),
    "a generator that points outside its buffer": wild("Philox", lambda state: state.update(buffer_pos=-(10**8))),
    "a generator that points nowhere": wild("Philox", lambda state: state.update(buffer_pos="x")),
    "a generator of another kind": wild("SFC64", lambda state: state.update(bit_generator="PCG64")),
    "a generator without a state": wild("PCG64", lambda state: state.pop("state")),
    "a generator with another's state": one(tree.RngState("random.Random"), Entry(None, tree.Tuple("tuple", 0))),
    "an unknown dtype": one(leaf.Dtype("float33")),
    "an attribute as a dtype": one(leaf.Dtype("nn")),
    "an unknown device": one(leaf.Device("toaster:1")),
    "an unknown constant": one(leaf.TorchConstant("nn")),
    "a lazy constant": one(leaf.TorchConstant("_dynamo")),
    "an unknown path": one(leaf.FilePath("WindowsPath", "a")),
    "a short float": one(leaf.Float(bytes(7))),
    "a short complex": one(leaf.Complex(bytes(8))),
    "no text": one(leaf.Text(b"\xff")),
    "a blob of the wrong length": one(leaf.Bytes(leaf.Chunks(len(DATA) + 1, CHUNK), False)),
    "a blob of negative length": one(leaf.Bytes(leaf.Chunks(-1, b""), False)),
    "a blob that claims too much": one(leaf.Bytes(leaf.Chunks(HUGE, CHUNK), False)),
    "a blob that is not there": one(leaf.Bytes(leaf.Chunks(5, NO_CHUNK), False)),
    "half an id": one(leaf.Bytes(leaf.Chunks(5, CHUNK[:16]), False)),
    "an object array": one(leaf.NumpyArray("|O", (1,), False, bytes(8))),
    "objects in a structure": one(leaf.NumpyArray("[('a', '|O')]", (1,), False, bytes(8))),
    "a subarray": one(leaf.NumpyArray("2<i4", (1,), False, bytes(8))),
    "an unknown numpy dtype": one(leaf.NumpyScalar("<q9", bytes(8))),
    "code as a dtype": one(leaf.NumpyScalar("[().__class__]", b"")),
    "an endless dtype": one(leaf.NumpyScalar("[" + "(" * 100_000, b"")),
    "nested signs as a dtype": one(leaf.NumpyScalar("(" + "-" * 60_000 + "1)", b"")),
    "a broken descriptor": one(leaf.NumpyScalar("('<i4',)", bytes(4))),
    "numbers as a descriptor": one(leaf.NumpyScalar("[5]", bytes(4))),
    "a huge structure": one(leaf.NumpyArray("[('a', '<i4', (1000000, 1000000))]", (1,), False, bytes(4))),
    "a numpy shape that does not fit": one(leaf.NumpyArray("<i4", (2,), False, bytes(4))),
    "a negative numpy shape": one(leaf.NumpyArray("<i4", (-1, -1), False, bytes(4))),
    "an endless empty array": one(leaf.NumpyArray("<i4", (1 << 63, 0), False, b"")),
    "too many numpy dimensions": one(leaf.NumpyArray("<i4", (1,) * 65, False, bytes(4))),
    "no code point": one(leaf.NumpyScalar("<U1", b"\xff\xff\xff\xff")),
    "an alias of nothing": Tree(CHUNK_SIZE, (), (alias(5),)),
    "an alias of itself": Tree(CHUNK_SIZE, (), (alias(0),)),
    "an alias of a later one": one(tree.List(2), alias(2), Entry(None, tensor())),
    "an alias of a leaf": one(tree.List(2), LEAF, alias(1)),
    "an alias beyond its owner": one(tree.List(2), Entry(None, tensor()), alias(1, count=257)),
    "a quantized tensor": one(tensor(dtype="qint8")),
    "an unknown tensor dtype": one(tensor(dtype="float33")),
    "a negative shape": one(tensor(shape=(-2, -3))),
    "a huge shape": one(tensor(shape=(HUGE, HUGE))),
    "a shape past 64 bits": one(tensor(shape=(0, 1 << 63))),
    "an empty shape that overflows": one(tensor(shape=(0, 1 << 40, 1 << 40))),
    "a huge shape without strides": one(tensor(shape=(HUGE, HUGE), strides=(0, 0))),
    "too many dimensions": one(tensor(shape=(1,) * 65)),
    "very many dimensions": one(tensor(shape=(2,) * 100_000)),
    "negative strides": one(tensor(strides=(-1, 1))),
    "too few strides": one(tensor(strides=(1,))),
    "strides beyond the span": one(tensor(strides=(1000, 1))),
    "strides past 64 bits": one(tensor(shape=(1,), strides=(1 << 63,))),
    "a negative offset": one(tensor(offset=-4)),
    "a crooked offset": one(tensor(offset=2)),
    "an offset beyond the span": one(tensor(offset=1004)),
    "a gradient of integers": one(tensor(dtype="int32", flags=2)),
    "a parameter with a gradient of integers": one(tensor(dtype="int32", flags=3)),
    "a span that claims too much": one(tensor(data=Whole(HUGE, CHUNK))),
    "a span of negative length": one(tensor(shape=(0,), data=Whole(-1, b""))),
    "a span without chunks": one(tensor(data=Whole(1024, b""))),
    "a span with too many chunks": one(tensor(data=Whole(1024, CHUNK * 2))),
    "a span that is not there": one(tensor(data=Whole(1024, NO_CHUNK))),
    "a slab that is not there": one(tensor(data=InSlab(0, 0, 24))),
    "a slab of negative number": one(tensor(data=InSlab(-1, 0, 24)), slabs=(SLAB,)),
    "a huge place in a slab": one(tensor(data=InSlab(0, 0, HUGE)), slabs=(SLAB,)),
    "a place beyond its slab": one(tensor(data=InSlab(0, 1020, 24)), slabs=(SLAB,)),
    "a place before its slab": one(tensor(data=InSlab(0, -8, 24)), slabs=(SLAB,)),
    "places that overlap": one(tree.List(50), *[Entry(None, tensor(data=InSlab(0, 0, 1024)))] * 50, slabs=(SLAB,)),
    "an unknown layout": parts(ONE_INDEX, tensor(shape=(1,)), layout="sparse_xyz"),
    "a list as a layout": parts(ONE_INDEX, tensor(shape=(1,)), layout="__all__"),
    "too few parts": parts(ONE_INDEX),
    "parts that are no tensors": parts(1, 2),
    "float indices": parts(tensor(), tensor(shape=(1,))),
    "indices beyond the shape": parts(ONE_INDEX, tensor(shape=(1,)), shape=(0, 0)),
    "a negative sparse shape": parts(ONE_INDEX, tensor(shape=(1,)), shape=(-3, 4)),
    "a sparse shape past 64 bits": parts(ONE_INDEX, tensor(shape=(1,)), shape=(1 << 63, 4)),
    "a gradient of sparse integers": parts(ONE_INDEX, tensor(dtype="int32", shape=(1,)), flags=2),
    "countless indices": parts(COUNTLESS, tensor(shape=(1 << 40,), strides=(0,), data=ZEROS), coalesced=True),
    "countless rows": parts(COUNTLESS, ONE_INDEX, tensor(shape=(1,)), layout="sparse_csr", shape=(1 << 40, 2)),
    "false indices that are coalesced": parts(
        tensor(dtype="int64", shape=(2, 2), data=ZEROS), tensor(shape=(2,)), coalesced=True
    ),
}  # fmt: skip


@pytest.mark.parametrize("hostile", REFUSED.values(), ids=REFUSED)
def test_it_is_refused_without_taking_memory(hostile: Tree) -> None:
    data = encode(hostile)
    tracemalloc.start()
    try:
        with scarce(128 << 20), pytest.raises(REFUSALS) as caught:
            unflatten(Structure("c", decode_tree(data)), READER)
        assert str(caught.value)
        assert tracemalloc.get_traced_memory()[1] < (4 << 20) + 300 * len(hostile.entries) + 20 * len(data)
    finally:
        tracemalloc.stop()
    opened(hostile)


@pytest.mark.parametrize(
    ("harmless", "expected"),
    [
        (one(tree.Set("frozenset", 0)), frozenset()),
        (one(tensor(shape=(0, 5), data=Whole(0, b""))), torch.empty(0, 5)),
        (one(tensor(shape=(1 << 40,), strides=(0,))), torch.zeros(1).expand(1 << 40)),
        (one(leaf.NumpyArray("|V0", (1 << 40,), False, b"")), np.empty(0, "|V0")),
    ],
)
def test_it_is_odd_but_harmless(harmless: Tree, expected: Any) -> None:
    with scarce(128 << 20):
        found = unflatten(Structure("c", decode_tree(encode(harmless))), READER)
    assert type(found) is type(expected)


def test_memory_that_is_not_there_is_told() -> None:
    """A claim that fits its chunks is believed as far as memory goes."""
    ids = BIG_CHUNK * 4096
    with scarce(256 << 20):
        for hostile in (
            one(tensor(shape=(1,), data=Whole(len(ids) << 15, ids))),
            one(leaf.Bytes(leaf.Chunks(len(ids) << 15, ids), False)),
        ):
            with pytest.raises(InvalidInput, match="bytes of memory, which are not there"):
                unflatten(Structure("c", hostile), READER)


@pytest.mark.parametrize("chunk_size", [0, -1, (16 << 20) + 1, HUGE])
def test_chunks_of_an_impossible_size(chunk_size: int) -> None:
    data = encode(one(1, chunk_size=chunk_size))
    reader = MemoryReader({(Kind.TREE, CHUNK): data})
    with pytest.raises(Format, match="claims chunks of"):
        read_tree(reader, CHUNK)


def test_pages_that_lie() -> None:
    page = encode(tree.Page((LEAF, LEAF)))
    for pages, refused in [
        ((tree.PageRef(CHUNK, 3),), Format),
        ((tree.PageRef(CHUNK, -2),), Format),
        ((tree.PageRef(NO_CHUNK, 2),), Integrity),
        ((tree.PageRef(BIG_CHUNK, 1),), Format),
    ]:
        root = encode(Tree(CHUNK_SIZE, (), (), pages))
        reader = MemoryReader(
            {(Kind.TREE, NO_CHUNK[::-1] + b"x"): root, (Kind.TREE, CHUNK): page, (Kind.TREE, BIG_CHUNK): root}
        )
        with pytest.raises(refused):
            read_tree(reader, NO_CHUNK[::-1] + b"x")


# Trees made by the thousand


def test_any_tree_is_opened_or_refused() -> None:
    maker = Maker(20_240_229)
    with scarce(1 << 30), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(GENERATED):
            opened(maker.tree())


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[Kind, bytes], bytes]:
    folder: Path = tmp_path_factory.mktemp("repo")
    with ckstore.open(folder) as repo:
        repo.commit(rich_state(), step=3, metrics={"loss": 0.5})
        return everything(repo)


def test_any_change_to_a_tree_is_opened_or_refused(objects: dict[tuple[Kind, bytes], bytes]) -> None:
    """Numbers and names inside real trees, changed one or two at a time."""
    changing = random.Random(7)
    reader = MemoryReader(objects)
    trees = [decode_tree(data) for (kind, _), data in sorted(objects.items()) if kind is Kind.TREE]
    trees = [one for one in trees if len(one.entries) < 900]
    with scarce(1 << 30), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(MUTATED):
            hostile = changing.choice(trees)
            for _ in range(changing.randrange(1, 3)):
                hostile = changed(hostile, changing)
            opened(hostile, reader)


def test_walking_agrees_with_the_structure() -> None:
    """Paths from the loop are those of a recursive reading."""
    maker = Maker(5)
    for _ in range(2000):
        made = maker.tree()
        try:
            nodes = list(walk(made.entries))
        except Format:
            continue
        structure = Structure("c", made)
        assert follow(structure, 0) == len(nodes)


def follow(structure: Structure, ordinal: int) -> int:
    """Where the entry after `ordinal` and all below it is, found by recursion."""
    node = structure.nodes[ordinal]
    after = ordinal + 1
    for child in structure.children(ordinal):
        assert child.ordinal == after
        assert child.keys[:-1] == node.keys
        after = follow(structure, after)
    assert structure.below(ordinal) == range(ordinal, after)
    return after
