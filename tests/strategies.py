"""Hypothesis strategies for everything a state may hold: tensors of every kind, leaves, containers."""

from __future__ import annotations

import collections
import math
import pathlib
import random
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Callable

DTYPES = sorted(
    (
        value
        for name, value in vars(torch).items()
        if isinstance(value, torch.dtype) and str(value) == f"torch.{name}" and not name.startswith(("q", "bits"))
    ),
    key=str,
)
"""Every dtype of this torch that tensors are made with, sub-byte ones included."""

DIFFERENTIABLE = [
    dtype for dtype in DTYPES if (dtype.is_floating_point or dtype.is_complex) and "float4" not in str(dtype)
]
SPARSE_DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.complex64]


class Point(NamedTuple):
    """A named tuple that lives in a module."""

    x: Any
    y: Any


seeds = st.integers(0, 2**32 - 1)


def filled(dtype: torch.dtype, count: int, seed: int) -> torch.Tensor:
    """`count` elements of any dtype on a storage of their own, made of random bytes; booleans are 0 or 1."""
    data = bytearray(np.random.default_rng(seed).bytes(count * dtype.itemsize))
    if dtype is torch.bool:
        data = bytearray(byte & 1 for byte in data)
    storage = torch.UntypedStorage(len(data))  # type: ignore[no-untyped-call]
    tensor = torch.empty(0, dtype=dtype)
    if data:
        torch.empty(0, dtype=torch.uint8).set_(storage).copy_(torch.frombuffer(data, dtype=torch.uint8))
        tensor.set_(storage, 0, (count,), (1,))
    return tensor


shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)
full_shapes = st.lists(st.integers(1, 5), max_size=4).map(tuple)


@st.composite
def contiguous(draw: st.DrawFn, dtypes: list[torch.dtype] = DTYPES) -> torch.Tensor:
    """A tensor of its own, up to 0-dim or empty."""
    shape = draw(shapes)
    return filled(draw(st.sampled_from(dtypes)), math.prod(shape), draw(seeds)).view(shape)


@st.composite
def view_of(draw: st.DrawFn, base: torch.Tensor) -> torch.Tensor:
    """Another look at the storage of a strided tensor: transposed, sliced, expanded, flattened, detached."""
    look = draw(st.sampled_from(["same", "detach", "permute", "slice", "narrow", "expand", "channels_last", "bytes"]))
    if look == "detach":
        return base.detach()
    if look == "permute" and base.dim() > 1:
        return base.permute(draw(st.permutations(range(base.dim()))))
    if look == "slice" and base.dim():
        return base[tuple(slice(draw(st.integers(0, 2)), None, draw(st.integers(1, 3))) for _ in base.shape)]
    if look == "narrow" and base.dim() and base.shape[0] > 1:
        start = draw(st.integers(1, base.shape[0] - 1))
        return base[start : start + draw(st.integers(0, 2))]
    if look == "expand":
        return base.unsqueeze(0).expand(draw(st.integers(1, 3)), *base.shape)
    if look == "channels_last" and base.numel():
        shape = (1, 2, 1, base.numel() // 2) if base.numel() % 2 == 0 else (1, base.numel(), 1, 1)
        if base.is_contiguous():
            return base.view(shape[0], shape[2], shape[3], shape[1]).permute(0, 3, 1, 2)
    if look == "bytes" and base.numel() and base.dtype in VIEWABLE and base.reshape(-1).stride() == (1,):
        return base.reshape(-1).view(torch.uint8)
    return base


VIEWABLE = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.float8_e5m2]


@st.composite
def lazy_bits(draw: st.DrawFn) -> torch.Tensor:
    """A complex tensor seen through its conjugate, or the negative view of its imaginary part."""
    base = filled(draw(st.sampled_from([torch.complex64, torch.complex128])), 6, draw(seeds)).view(2, 3)
    return base.conj() if draw(st.booleans()) else base.conj().imag


@st.composite
def sparse(draw: st.DrawFn) -> torch.Tensor:
    """COO (coalesced or with duplicates), CSR, CSC, BSR, BSC."""
    dtype = draw(st.sampled_from(SPARSE_DTYPES))
    layout = draw(st.sampled_from(["coo", "hybrid", "csr", "csc", "bsr", "bsc"]))
    seed = draw(seeds)
    if layout in ("coo", "hybrid"):
        count = draw(st.integers(0, 5))
        places = np.random.default_rng(seed).integers(0, 3, (2, count))
        values = filled(dtype, count * (2 if layout == "hybrid" else 1), seed)
        shape = (3, 4, 2) if layout == "hybrid" else (3, 4)
        made = torch.sparse_coo_tensor(torch.from_numpy(places), values.view(count, *shape[2:]), shape)
        return made.coalesce() if draw(st.booleans()) else made
    dense = torch.from_numpy(np.random.default_rng(seed).integers(0, 2, (4, 6))).to(dtype)
    if layout == "csr":
        return dense.to_sparse_csr()
    if layout == "csc":
        return dense.to_sparse_csc()
    return dense.to_sparse_bsr((2, 3)) if layout == "bsr" else dense.to_sparse_bsc((2, 3))


@st.composite
def trained(draw: st.DrawFn) -> torch.Tensor:
    """A Parameter, or a tensor that requires a gradient."""
    base = draw(contiguous(DTYPES))
    gradient = base.dtype in DIFFERENTIABLE and draw(st.booleans())
    if draw(st.booleans()):
        return torch.nn.Parameter(base, requires_grad=gradient)
    return base.requires_grad_(gradient)


@st.composite
def lone_views(draw: st.DrawFn) -> torch.Tensor:
    """A view whose base is not in the state."""
    return draw(view_of(draw(view_of(draw(contiguous())))))


tensors = st.one_of(contiguous(), lone_views(), lazy_bits(), sparse(), trained())
"""Tensors that share memory with no other."""


@st.composite
def families(draw: st.DrawFn) -> list[torch.Tensor]:
    """Tensors on one storage (tied, views, other dtypes), and an equal one that is not tied."""
    base = draw(contiguous())
    members = [base, *[draw(view_of(base)) for _ in range(draw(st.integers(1, 3)))]]
    if draw(st.booleans()):
        members.append(base.clone() if base.dtype in VIEWABLE else base)
    return list(draw(st.permutations(members)))


@st.composite
def payloads(draw: st.DrawFn) -> bytes:
    """Bytes of any length, seldom past 4 KiB (chunked) or 1 MiB (more than one chunk)."""
    length = draw(st.sampled_from([0, 1, 7, 7, 100, 4095, 4096, 4097, 70_000, (1 << 20) + 5]))
    return np.random.default_rng(draw(seeds)).bytes(length)


floats = st.one_of(
    st.floats(),
    st.sampled_from([-0.0, math.inf, -math.inf]),
    st.integers(0, 2**64 - 1).map(lambda bits: float(struct.unpack(">d", struct.pack(">Q", bits))[0])),
    st.integers(1, 2**51 - 1).map(lambda bits: float(struct.unpack(">d", struct.pack(">Q", 0x7FF8 << 48 | bits))[0])),
)
integers = st.one_of(st.integers(-5, 5), st.integers(-(2**200), 2**200), st.sampled_from([2**63, 2**64, -(2**63) - 1]))
texts = st.one_of(
    st.text(max_size=10),
    st.text(st.characters(categories=["Cs", "L", "Cc"]), max_size=6),
    st.integers(4090, 4100).map(lambda n: "ä" * (n // 2)),
    st.integers(1 << 20, (1 << 20) + 3).map(lambda n: "x" * n),
)
paths = st.one_of(
    st.sampled_from(["a/b", ".", "/", "/a//b/../c", "ä", "~", "a" * 300]).map(pathlib.Path),
    st.sampled_from(["a/b", "//a", "c:\\x"]).map(pathlib.PurePosixPath),
    st.sampled_from(["a/b", "c:\\x\\y", "\\\\host\\share\\d"]).map(pathlib.PureWindowsPath),
)
torch_values = st.one_of(
    st.sampled_from(DTYPES),
    st.sampled_from(["cpu", "cuda", "cuda:3", "meta", "mps"]).map(torch.device),
    st.sampled_from([torch.strided, torch.sparse_coo, torch.sparse_csr, torch.sparse_bsc]),
    st.sampled_from([torch.channels_last, torch.contiguous_format, torch.preserve_format]),
)

NUMPY_DTYPES = [
    "b1", "i1", "u1", "<i2", ">i2", "<u4", ">i8", "<u8", "<f2", ">f4", "<f8", "<f16", "<c8", ">c16", "<c32",
    "<M8[ns]", "<M8[D]", ">M8[us]", "<m8[s]", "S5", "<U3", ">U2", "V7",
]  # fmt: skip
STRUCTURED = [
    np.dtype([("a", "<f4"), ("b", ">i2", (2,)), ("c", "S3")]),
    np.dtype({"names": ["x", "y"], "formats": ["<i4", "<f8"], "offsets": [0, 8], "itemsize": 24}),
    np.dtype([("outer", [("inner", "<u2"), ("other", "<M8[s]")]), ("z", "?")]),
]


@st.composite
def numpy_arrays(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    """Arrays of every kind of dtype: C and Fortran order, reversed, strided, 0-dim, empty, seldom long."""
    dtype = draw(st.one_of(st.sampled_from(NUMPY_DTYPES).map(np.dtype), st.sampled_from(STRUCTURED)))
    shape = draw(st.one_of(shapes, st.sampled_from([(2000,), (70, 80)])))
    data = np.random.default_rng(draw(seeds)).bytes(math.prod(shape) * dtype.itemsize)
    if dtype.kind in "bUSV":
        data = (
            bytes(byte & 1 for byte in data) if dtype.kind != "U" else np.arange(len(data) // 4, dtype="<u4").tobytes()
        )
    flat = np.zeros(math.prod(shape), dtype)
    if len(data) == flat.nbytes and not (dtype.kind == "U" and dtype.str[0] == ">"):
        flat = np.frombuffer(bytearray(data), dtype)
    array = flat.reshape(shape)
    look = draw(st.sampled_from(["plain", "fortran", "reversed", "strided"]))
    if look == "fortran":
        return np.asfortranarray(array)
    if look == "reversed" and array.ndim:
        return array[::-1]
    return array[::2] if look == "strided" and array.ndim else array


numpy_scalars = st.one_of(
    floats.map(np.float64),
    st.integers(-(2**63), 2**63 - 1).map(np.int64),
    st.integers(0, 255).map(np.uint8),
    st.booleans().map(np.bool_),
    st.sampled_from([np.float16(1.5), np.float32(-0.0), np.complex64(1j), np.longdouble("0.1"), np.intp(3)]),
    st.sampled_from([np.datetime64("2024-02-29T12:00", "ns"), np.datetime64("NaT", "s"), np.timedelta64(5, "D")]),
    st.sampled_from([np.str_(""), np.str_("ä\0"), np.str_("x" * 3000), np.str_("\ud800")]),
    st.sampled_from([np.bytes_(b""), np.bytes_(b"a\0"), np.bytes_(b"x" * 9000), np.void(b"ab\0")]),
    st.just(np.zeros((), STRUCTURED[0])[()]),
)

scalars = st.one_of(st.none(), st.booleans(), integers, floats, st.text(max_size=10))
leaves = st.one_of(
    scalars,
    st.builds(complex, floats, floats),
    texts,
    payloads(),
    payloads().map(bytearray),
    paths,
    torch_values,
    numpy_scalars,
    numpy_arrays(),
)
"""Every value that is kept as a leaf."""

keys = st.recursive(
    st.one_of(
        st.text(max_size=8),
        integers,
        floats,
        st.booleans(),
        st.none(),
        st.binary(max_size=8),
        st.builds(complex, floats, floats),
        paths,
        st.text(st.characters(categories=["Cs", "L"]), max_size=4),
    ),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=4,
)
"""Everything a dictionary key or the member of a set may be, but for what only torch and numpy have."""

foreign_keys = st.one_of(
    st.sampled_from(DTYPES), st.sampled_from([np.int64(7), np.float32(0.5), np.str_("k"), np.bytes_(b"k\0")])
)
dict_keys = st.one_of(keys, foreign_keys)


@st.composite
def generators(draw: st.DrawFn) -> object:
    """Random generators, some of them in mid-stream."""
    seed, drawn = draw(seeds), draw(st.integers(0, 3))
    kind = draw(st.sampled_from(["torch", "python", "legacy", "PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"]))
    if kind == "torch":
        torch_made = torch.Generator().manual_seed(seed)
        torch.randn(drawn, generator=torch_made)
        return torch_made
    if kind == "python":
        python_made = random.Random(seed)
        for _ in range(drawn):
            python_made.gauss(0, 1)
        return python_made
    if kind == "legacy":
        legacy_made = np.random.RandomState(np.random.MT19937(seed) if seed % 2 else np.random.PCG64(seed))
        legacy_made.standard_normal(drawn)
        return legacy_made
    made = np.random.Generator(getattr(np.random, kind)(seed))
    made.integers(0, 100, drawn, dtype=np.uint32)
    return made


FACTORIES: list[Callable[[], Any] | None] = [None, list, dict, set, int, float, str, tuple]


@st.composite
def ordered(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> collections.OrderedDict[Any, Any]:
    """An OrderedDict, with attributes as `state_dict()` sets them."""
    made = collections.OrderedDict(draw(st.dictionaries(dict_keys, inner, max_size=3)))
    if draw(st.booleans()):
        made._metadata = {"": {"version": draw(inner)}}  # type: ignore[attr-defined]
    return made


@st.composite
def defaulting(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> collections.defaultdict[Any, Any]:
    factory = draw(st.sampled_from(FACTORIES))
    return collections.defaultdict(factory, draw(st.dictionaries(dict_keys, inner, max_size=3)))


@st.composite
def deques(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> collections.deque[Any]:
    return collections.deque(draw(st.lists(inner, max_size=4)), draw(st.sampled_from([None, 2, 9])))


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Every container over `inner`."""
    return st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(dict_keys, inner, max_size=4),
        ordered(inner),
        defaulting(inner),
        deques(inner),
        st.builds(Point, inner, inner),
    )


flat_containers = st.one_of(
    st.sets(keys, max_size=4),
    st.frozensets(keys, max_size=4),
    st.lists(st.integers(0, 2**40), max_size=4).map(torch.Size),
    st.dictionaries(keys, st.integers(-3, 2**70), max_size=4).map(collections.Counter),
    generators(),
)


def spread(family: list[torch.Tensor]) -> object:
    """Tensors that share memory, at several depths of one value."""
    first, *rest = family
    return {"first": first, "rest": [{"deep": (tensor,)} for tensor in rest], "again": first}


values = st.recursive(
    st.one_of(leaves, tensors, flat_containers, families(), families().map(spread)), containers, max_leaves=8
)
"""Any nesting of everything above, with tensors that share memory here and there in it."""

component_names = st.sampled_from(["model", "optimizer", "rng", "a b", "ä", "data.loader", "0"])
states = st.dictionaries(component_names, values, min_size=1, max_size=3)
"""What `commit` takes: components by name."""
