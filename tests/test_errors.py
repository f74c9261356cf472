"""What cannot be kept or found is refused with its path and a way out, and nothing is written."""

from __future__ import annotations

import collections
import enum
import math
import pathlib
import pickle
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import ckstore
from ckstore import errors
from ckstore.errors import CkstoreError, Conflict, Format, InvalidInput, NoRepository, NoRevision, NotFound
from tests.equality import assert_same_components

if TYPE_CHECKING:
    from collections.abc import Callable

CLASSES = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, CkstoreError)]


# The tree of errors


def test_every_class_has_a_code_of_its_own() -> None:
    codes = [cls.code for cls in CLASSES]
    assert len(set(codes)) == len(codes) == 14
    assert all(code == code.lower() and " " not in code for code in codes)


def test_the_public_names_are_these_classes() -> None:
    for cls in CLASSES:
        assert getattr(ckstore, cls.__name__) is cls


@pytest.mark.parametrize("cls", CLASSES)
def test_errors_are_pickled_whole(cls: type[CkstoreError]) -> None:
    error = cls("what", why="why", hint="hint")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert (again.what, again.why, again.hint, str(again)) == ("what", "why", "hint", "what\nwhy\nFix: hint")
    assert str(cls("what")) == "what"


def test_a_handler_can_ask_for_more_or_less() -> None:
    assert issubclass(NoRepository, NotFound)
    assert issubclass(NoRevision, NotFound)
    assert Conflict.retryable
    assert not InvalidInput.retryable


# What cannot be kept


class Unknown:
    """A class ckstore knows nothing of."""


class Colour(enum.Enum):
    RED = 1


class SubInt(int):
    """Comes back as another type if it were kept as an int."""


class SubPath(type(pathlib.Path())):  # type: ignore[misc]
    """A path of somebody's own."""


class SubTensor(torch.Tensor):
    """A tensor that is more than its data."""


def deep(levels: int, inner: object) -> object:
    for _ in range(levels):
        inner = [inner]
    return inner


REFUSED: list[tuple[str, Any]] = [
    ("object", Unknown()),
    ("class", Unknown),
    ("module class", torch.nn.Linear),
    ("function", math.sin),
    ("lambda", lambda: None),
    ("enum", Colour.RED),
    ("int subclass", SubInt(3)),
    ("path subclass", SubPath("a")),
    ("tensor subclass", torch.ones(2).as_subclass(SubTensor)),
    ("lock", threading.Lock()),
    ("generator", (n for n in range(3))),
    ("factory", collections.defaultdict(lambda: 0)),
    ("object array", np.array([None], dtype=object)),
    ("masked array", np.ma.masked_array([1.0], [True])),
    ("path with surrogate", pathlib.Path("\ud800")),
    ("unknown key", {Unknown(): 1}),
    ("frozenset key", {frozenset({1}): 1}),
    ("long key", {"x" * 5000: 1}),
    ("long numpy key", {np.str_("x" * 5000): 1}),
    ("unknown member", {Unknown()}),
    ("deep key", {eval("(" * 40 + "1" + ",)" * 40): 1}),
]


@pytest.mark.parametrize("value", [value for _, value in REFUSED], ids=[name for name, _ in REFUSED])
def test_an_unknown_object_names_its_path_and_the_ways_out(repo: ckstore.Repo, value: object) -> None:
    with pytest.raises(InvalidInput, match=r"cannot keep model\.layers\.0\.cfg") as caught:
        repo.commit({"model": {"layers": [{"cfg": value}]}})
    assert "register_encoder" in str(caught.value.hint)
    assert "allow_pickle=True" in str(caught.value.hint)
    assert repo.log(all=True) == []


@pytest.mark.filterwarnings("ignore:torch.quantize:UserWarning", "ignore:The PyTorch API of nested:UserWarning")
@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: torch.empty(3, device="meta"), "a meta tensor has no data"),
        (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "quantized tensors are not kept"),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "nested tensors are not kept"),
        (lambda: torch.ones(2, 2).to_mkldnn(), r"the layout torch\._mkldnn is not kept"),
        (torch.nn.parameter.UninitializedParameter, "its class is not one ckstore knows"),
    ],
)
def test_tensors_without_plain_data(repo: ckstore.Repo, make: Callable[[], torch.Tensor], match: str) -> None:
    with pytest.raises(InvalidInput, match=match) as caught:
        repo.commit({"model": {"w": make()}})
    assert "model.w" in str(caught.value) or "w:" in str(caught.value)


def test_cycles(repo: ckstore.Repo) -> None:
    loop: list[object] = [1]
    loop.append({"again": loop})
    with pytest.raises(InvalidInput, match=r"model\.1\.again contains itself"):
        repo.commit({"model": loop})
    ordered: collections.OrderedDict[str, object] = collections.OrderedDict()
    ordered.me = ordered  # type: ignore[attr-defined]
    with pytest.raises(InvalidInput, match=r"model\.<attributes>\.me contains itself"):
        repo.commit({"model": ordered})


def test_the_same_list_twice_is_no_cycle(repo: ckstore.Repo) -> None:
    shared = [1, 2]
    repo.commit({"a": [shared, shared]})
    assert repo["HEAD"].load() == {"a": [[1, 2], [1, 2]]}


def attributed() -> object:
    made: collections.OrderedDict[str, object] = collections.OrderedDict(a=1)
    made._metadata = {"v": 1}  # type: ignore[attr-defined]
    return made


@pytest.mark.parametrize(
    ("levels", "inner"),
    [(201, 1), (200, [1]), (200, {1}), (200, frozenset({1})), (198, attributed()), (5000, 1)],
    ids=["leaf", "list", "set", "frozenset", "attributes", "far too deep"],
)
def test_too_deep(repo: ckstore.Repo, levels: int, inner: object) -> None:
    with pytest.raises(InvalidInput, match=r"nests more than 200 containers|nests too deep"):
        repo.commit({"c": deep(levels, inner)})
    if levels <= 201:
        repo.commit({"c": deep(levels - 1, inner)})
        assert_same_components({"c": deep(levels - 1, inner)}, repo["HEAD"].load())


# Pickles


class Canary:
    """Tells when it is unpickled."""

    hatched: list[int] = []  # noqa: RUF012

    def __init__(self, number: int) -> None:
        self.number = number

    def __setstate__(self, state: dict[str, int]) -> None:
        Canary.hatched.append(state["number"])
        self.__dict__.update(state)


def test_nothing_is_pickled_or_unpickled_unasked(repo: ckstore.Repo) -> None:
    Canary.hatched.clear()
    state = {"model": {"w": torch.ones(2)}, "extra": [Canary(1), Canary(2)]}
    with pytest.raises(InvalidInput, match=r"cannot keep extra\.0, a tests\.test_errors\.Canary"):
        repo.commit(state)
    repo.commit(state, allow_pickle=True)
    checkpoint = repo["HEAD"]
    reads: list[Callable[[], object]] = [
        checkpoint.load,
        lambda: checkpoint.load(only="extra"),
        checkpoint["extra"].load,
        lambda: checkpoint["extra"][0],
        lambda: checkpoint.load(into={"extra": torch.nn.Linear(1, 1)}),
    ]
    for read in reads:
        with pytest.raises(InvalidInput, match=r"extra\.0 is a pickle, which can run any code"):
            read()
    assert repo.verify(read_data=True).ok
    assert Canary.hatched == []
    assert checkpoint.load(only="model.*")["model"]["w"].sum() == 2
    loaded = checkpoint.load(allow_pickle=True)
    assert [canary.number for canary in loaded["extra"]] == Canary.hatched == [1, 2]


def test_a_long_pickle(repo: ckstore.Repo) -> None:
    repo.commit({"extra": Colour, "long": Canary(10**20_000 % 10**19_000)}, allow_pickle=True)
    loaded = repo["HEAD"].load(allow_pickle=True)
    assert loaded["extra"] is Colour
    assert loaded["long"].number == 10**20_000 % 10**19_000


def test_tensors_are_never_pickled(repo: ckstore.Repo) -> None:
    with pytest.raises(InvalidInput, match="cannot keep model"):
        repo.commit({"model": torch.ones(2).as_subclass(SubTensor)}, allow_pickle=True)


def test_nothing_is_imported_on_a_checkpoints_word(repo: ckstore.Repo) -> None:
    """Classes and constants are looked up among what is loaded; a lazy module is not asked for more."""
    code = """
import sys
from ckstore.objects.encoding import decode_tree, encode
from ckstore.objects.leaf import TorchConstant
from ckstore.objects.structure import Structure
from ckstore.objects.tree import CHUNK_SIZE, Entry, NamedFields, Sparse, Tree
from ckstore.torch.unflatten import unflatten
from ckstore.errors import Format
class Nothing:
    def fill(self, requests):
        assert not requests
before = set(sys.modules)
for module, name in (("ckstore", "open"), ("torch", "_dynamo"), ("torch", "onnx"), ("this", "s"), ("antigravity", "x")):
    for value in (NamedFields(module, name, ("x",)), TorchConstant(name), Sparse(name, (1,), False, 0, 1)):
        more = () if isinstance(value, TorchConstant) else (Entry(None, 1),)
        tree = decode_tree(encode(Tree(CHUNK_SIZE, (), (Entry(None, value), *more))))
        try:
            unflatten(Structure("c", tree), Nothing())
        except Format:
            pass
print(sorted(set(sys.modules) - before))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


# Encoders


class Celsius:
    def __init__(self, degrees: float, history: torch.Tensor) -> None:
        self.degrees = degrees
        self.history = history


def test_an_encoder_keeps_a_class(repo: ckstore.Repo) -> None:
    ckstore.register_encoder(
        "test.celsius", Celsius, lambda c: {"degrees": c.degrees, "history": c.history}, lambda plain: Celsius(**plain)
    )
    history = torch.arange(3.0)
    repo.commit({"weather": [Celsius(-0.0, history), history]})
    celsius, shared = repo["HEAD"].load()["weather"]
    assert type(celsius) is Celsius
    assert math.copysign(1, celsius.degrees) == -1
    shared[0] = 42
    assert celsius.history.tolist() == [42, 1, 2]
    with pytest.raises(InvalidInput, match=r"'test\.celsius' belongs to Celsius"):
        ckstore.register_encoder("test.celsius", Unknown, vars, lambda plain: plain)
    with pytest.raises(InvalidInput, match=r"weather\.0 cannot be loaded in part"):
        repo["HEAD"].load(only="weather.0.state.degrees")


def test_an_encoder_that_is_missing(repo: ckstore.Repo) -> None:
    code = f"""
import ckstore
class Kelvin: pass
ckstore.register_encoder("test.kelvin", Kelvin, lambda k: 273, lambda plain: Kelvin())
ckstore.open({str(repo.path)!r}).commit({{"weather": [Kelvin()], "model": 1}})
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(InvalidInput, match=r"encoder 'test\.kelvin', which is not registered") as caught:
        repo["HEAD"].load()
    assert "register_encoder('test.kelvin'" in str(caught.value.hint)
    assert repo["HEAD"].load(only="model") == {"model": 1}


# What is said of a commit


@pytest.mark.parametrize(
    "said",
    [
        {"step": -1},
        {"step": 1 << 63},
        {"step": 1.5},
        {"step": 2.0},
        {"step": "3"},
        {"epoch": -1},
        {"epoch": torch.ones(2, dtype=torch.long)},
        {"metrics": {"loss": "0.5"}},
        {"metrics": {"loss": b"1"}},
        {"metrics": {"loss": None}},
        {"metrics": {"loss": 1j}},
        {"metrics": {"loss": torch.ones(2)}},
        {"metrics": {"loss": 10**400}},
        {"metrics": {3: 1.0, "a": 1.0}},
        {"metrics": {"\ud800": 1.0}},
        {"message": "\ud800"},
        {"message": 5},
        {"author": b"me"},
    ],
    ids=repr,
)
def test_what_is_said_of_a_commit_must_make_sense(repo: ckstore.Repo, said: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        repo.commit({"a": 1}, **said)
    assert repo.log(all=True) == []


def test_numbers_of_any_type(repo: ckstore.Repo) -> None:
    said: dict[str, Any] = {
        "step": np.int64(5),
        "epoch": torch.tensor(3),
        "metrics": {"loss": torch.tensor(0.5), "nan": math.nan, "zero": -0.0, "np": np.float32(1), "": True},
    }
    repo.commit({"a": 1}, **said)
    info = repo.log()[0]
    assert (info.step, info.epoch) == (5, 3)
    assert list(info.metrics) == ["", "loss", "nan", "np", "zero"]
    assert math.isnan(info.metrics["nan"])
    assert math.copysign(1, info.metrics["zero"]) == -1


BAD_NAMES = [
    "", " ", "a b", "a~", "a^b", "a:b", "a?", "a*", "a[", "a\\b", "a@b", "-a", "/a", ".a", "a/", "a.", "a..b",
    "a//b", "a.lock", "HEAD", "last", "a\n", "\x7f", "\ud800", "x" * 201, 5,
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
def test_bad_names_of_branches_and_tags(repo: ckstore.Repo, name: Any) -> None:
    for said in ({"branch": name}, {"tag": name}):
        with pytest.raises(InvalidInput, match="cannot name a"):
            repo.commit({"a": 1}, **said)
    assert repo.log(all=True) == []


@pytest.mark.parametrize("name", ["a", "a/b", "v1.0", "x_y-z", "ä", "deadbeef", "heads/main", "x" * 200])
def test_good_names_of_branches_and_tags(repo: ckstore.Repo, name: str) -> None:
    id = repo.commit({"a": 1}, branch=name, tag=name).id
    assert (repo.branches, repo.tags) == ({name: id}, {name: id})
    assert repo[name].id == id


def test_a_tag_is_never_moved(repo: ckstore.Repo) -> None:
    id = repo.commit({"a": 1}, tag="v1").id
    with pytest.raises(InvalidInput, match="the tag 'v1' is taken"):
        repo.commit({"a": 2}, tag="v1")
    assert repo.tags == {"v1": id}


def test_a_parent_must_be_the_tip(repo: ckstore.Repo) -> None:
    first = repo.commit({"a": 1}).id
    second = repo.commit({"a": 2}, parent="main").id
    with pytest.raises(InvalidInput, match="not at the parent 'HEAD~1'"):
        repo.commit({"a": 3}, parent="HEAD~1")
    with pytest.raises(NoRevision):
        repo.commit({"a": 3}, parent="nowhere")
    assert repo.commit({"a": 3}, branch="side", parent="HEAD~1").parents == (first,)
    assert repo.branches["main"] == second


def test_another_writer_first(repo: ckstore.Repo) -> None:
    with ckstore.open(repo.path) as other:

        class Meanwhile:
            """Lets the other writer in once this one has read the branch."""

            def start(self, what: str, total_bytes: int) -> None:
                other.commit({"a": 2})

            def advance(self, done_bytes: int) -> None: ...

        with pytest.raises(Conflict, match="heads/main was moved") as caught:
            repo.commit({"a": torch.ones(1000)}, progress=Meanwhile())
    assert caught.value.hint
    assert [info.id for info in repo.log()] == [repo.branches["main"]]
    assert repo.commit({"a": torch.ones(1000)}).known_objects == 2  # its chunk and its tree were kept


# What is not there


def test_no_repository(tmp_path: pathlib.Path) -> None:
    with pytest.raises(NoRepository, match="no ckstore repository"):
        ckstore.open(tmp_path, create=False)
    (tmp_path / ".ckstore").mkdir()
    with pytest.raises(NoRepository):
        ckstore.open(tmp_path, create=False)


def test_a_format_of_the_future(tmp_path: pathlib.Path) -> None:
    ckstore.open(tmp_path).close()
    said = tmp_path / ".ckstore" / "format"
    said.write_text(said.read_text().replace("format = 2", "format = 999"))
    with pytest.raises(Format, match="has format 999"):
        ckstore.open(tmp_path)
    said.write_bytes(b"\xff\x00")
    with pytest.raises(ckstore.Integrity, match="is damaged"):
        ckstore.open(tmp_path)


def test_no_threads(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InvalidInput, match="0 threads"):
        ckstore.open(tmp_path, threads=0)


def test_an_opaque_file_is_no_state(repo: ckstore.Repo, tmp_path: pathlib.Path) -> None:
    (tmp_path / "notes.txt").write_bytes(b"hello")
    repo.commit_files(tmp_path / "notes.txt")
    with pytest.raises(InvalidInput, match="opaque file"):
        repo["HEAD"].load()
