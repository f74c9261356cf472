"""What is committed comes back the same to the last bit, from a real repository on disk."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings

import ckstore
from ckstore.digest import Kind
from ckstore.graph.reachability import objects_of_tree
from ckstore.objects.reader import read_tree
from ckstore.objects.tree import CHUNK_SIZE, PAGE_LIMIT, Alias, InSlab, Tensor
from tests.equality import assert_same, assert_same_components
from tests.strategies import Point, states

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings(
    "ignore:ComplexHalf support:UserWarning", "ignore:Sparse .* beta state:UserWarning"
)

quick = settings(deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ckstore.Repo]]:
    """Two repositories for the whole module."""
    with ckstore.open(tmp_path_factory.mktemp("one")) as one, ckstore.open(tmp_path_factory.mktemp("other")) as other:
        yield [one, other]


def trees(repo: ckstore.Repo, revision: str = "HEAD") -> dict[str, bytes]:
    """Ids of the trees of a commit by component."""
    _, commit = repo._repository.resolve(revision, 0)
    return {component.name: component.tree for component in commit.components}


def chunks(repo: ckstore.Repo, tree: bytes) -> list[bytes]:
    """Ids of the chunks of a tree, as often as it names them."""
    return [id for kind, id in objects_of_tree(repo._repository.store.objects, tree) if kind is Kind.CHUNK]


@settings(quick, max_examples=500)
@given(states)
def test_any_state_comes_back(two: list[ckstore.Repo], state: dict[str, object]) -> None:
    one, _ = two
    id = one.commit(state).id
    assert_same_components(state, one[id].load())


@settings(quick, max_examples=120)
@given(states)
def test_the_same_value_has_the_same_id_everywhere(two: list[ckstore.Repo], state: dict[str, object]) -> None:
    one, other = two
    first = one.commit(state)
    again = one.commit(state)
    assert (again.new_objects, trees(one, again.id)) == (1, trees(one, first.id))
    other.commit(one[first.id].load())
    assert trees(other) == trees(one)


@settings(quick, max_examples=50)
@given(states)
def test_every_component_is_read_alone(two: list[ckstore.Repo], state: dict[str, object]) -> None:
    one, _ = two
    checkpoint = one[one.commit(state).id]
    for name, value in state.items():
        section = checkpoint[name]
        assert_same(value, section.load() if hasattr(section, "load") else section, name)


def test_it_is_there_after_opening_again(tmp_path: Path) -> None:
    state = {"model": torch.nn.Linear(3, 4).state_dict(), "step": {"n": 2**100}}
    with ckstore.open(tmp_path) as repo:
        id = repo.commit(state).id
    with ckstore.open(tmp_path, create=False) as repo:
        assert_same_components(state, repo[id].load())
        assert repo.verify(read_data=True).ok


@pytest.mark.parametrize(
    "bare",
    [torch.arange(5.0), [1, 2], {}, None, 7, {1: 2}, {"@x": 1}, {"": 1}, {"a\nb": 1}, {"\ud800": torch.ones(2)}],
    ids=repr,
)
def test_a_state_that_is_no_dictionary_of_components(repo: ckstore.Repo, bare: object) -> None:
    repo.commit(bare)
    assert repo["HEAD"].keys() == ["state"]
    assert_same(bare, repo["HEAD"].load())


# Aliasing


def test_tied_weights_come_back_tied(repo: ckstore.Repo) -> None:
    weight = torch.nn.Parameter(torch.randn(40, 8))
    repo.commit({"model": {"embed": weight, "head": weight, "row": weight.detach()[3], "flat": weight.view(-1)}})
    model = repo["HEAD"].load()["model"]
    with torch.no_grad():
        model["embed"][3, 0] = 42
    assert model["head"][3, 0] == model["row"][0] == model["flat"][24] == 42


def test_equal_tensors_come_back_apart(repo: ckstore.Repo) -> None:
    repo.commit(
        {"model": {"a": torch.zeros(5), "b": torch.zeros(5), "c": torch.zeros(1 << 19), "d": torch.zeros(1 << 19)}}
    )
    model = repo["HEAD"].load()["model"]
    model["a"][0] = model["c"][0] = 1
    assert model["b"].sum() == model["d"].sum() == 0
    assert len(set(chunks(repo, trees(repo)["model"]))) == 2


def test_memory_wrapped_twice_is_shared(repo: ckstore.Repo) -> None:
    array = np.arange(100.0)
    repo.commit({"state": {"head": torch.from_numpy(array[:10]), "all": torch.from_numpy(array)}})
    loaded = repo["HEAD"].load()["state"]
    assert torch.equal(loaded["all"], torch.arange(100.0, dtype=torch.float64))
    loaded["all"][0] = 42
    assert loaded["head"][0] == 42


def test_only_the_covered_span_is_kept(repo: ckstore.Repo) -> None:
    base = torch.randn(1 << 20)
    result = repo.commit({"a": {"some": base[1000:2000], "more": base[1500:3000]}})
    assert result.raw_bytes == 2000 * 4
    repo.commit({"b": base[5].expand(10, 10)})
    assert_same_components({"b": base[5].expand(10, 10)}, repo["HEAD"].load())


def test_a_storage_that_was_freed_is_refused(repo: ckstore.Repo) -> None:
    tensor = torch.ones(10)
    tensor.untyped_storage().resize_(0)
    with pytest.raises(ckstore.InvalidInput, match="w: its memory has been freed"):
        repo.commit({"model": {"w": tensor}})
    assert tensor.untyped_storage().nbytes() == 0


def test_loaded_named_tuples_have_their_class(repo: ckstore.Repo) -> None:
    gone = collections.namedtuple("gone", ["a", "b"])  # noqa: PYI024
    repo.commit({"here": Point(1, torch.ones(2)), "gone": gone(1, 2)})
    loaded = repo["HEAD"].load()
    assert type(loaded["here"]) is Point
    assert (type(loaded["gone"]).__name__, loaded["gone"]._asdict()) == ("gone", {"a": 1, "b": 2})


# Parts


STATE = {
    "model": {"layers": [{"w": torch.arange(6.0), "b": torch.ones(2)}, {"w": torch.zeros(3), "b": None}], "name": "m"},
    "optimizer": {"state": {0: {"step": torch.tensor(3.0)}, 1: {}}, "pair": (1, 2)},
    "step": 7,
}


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ("step", {"step": 7}),
        ("model.name", {"model": {"name": "m"}}),
        ("optimizer.pair.1", {"optimizer": {"pair": (None, 2)}}),
        (["optimizer.state.0*", "step"], {"optimizer": {"state": {0: {"step": torch.tensor(3.0)}}}, "step": 7}),
        ("*.b", {"model": {"layers": [{"b": torch.ones(2)}, {"b": None}]}}),
        ("model", {"model": STATE["model"]}),
        ("*", STATE),
    ],
)
def test_only_some(repo: ckstore.Repo, only: str | list[str], expected: dict[str, object]) -> None:
    repo.commit(STATE)
    assert_same_components(expected, repo["HEAD"].load(only=only))


def test_only_nothing(repo: ckstore.Repo) -> None:
    repo.commit(STATE)
    with pytest.raises(ckstore.InvalidInput, match="nothing matches modle") as caught:
        repo["HEAD"].load(only="modle.name")
    assert caught.value.hint == "did you mean model.name, model.layers, model.layers.1?"
    with pytest.raises(ckstore.InvalidInput, match="nothing matches"):
        repo["HEAD"].load(only=[])
    with pytest.raises(ckstore.InvalidInput, match="exclude each other"):
        repo["HEAD"].load(only="model", into={"model": torch.nn.Linear(1, 1)})


def test_only_keeps_ties_among_what_it_selects(repo: ckstore.Repo) -> None:
    weight = torch.arange(4.0)
    repo.commit({"model": {"first": weight, "second": weight, "third": weight[1:]}})
    model = repo["HEAD"].load(only=["*second", "*third"])["model"]
    assert_same({"second": weight, "third": weight[1:]}, model)


def test_a_sparse_tensor_is_not_loaded_in_part(repo: ckstore.Repo) -> None:
    repo.commit({"model": {"s": torch.eye(3).to_sparse()}})
    assert_same(torch.eye(3).to_sparse(), repo["HEAD"].load(only="model.s")["model"]["s"])
    with pytest.raises(ckstore.InvalidInput, match=r"model\.s cannot be loaded in part"):
        repo["HEAD"].load(only="model.s.0")


def test_no_such_component(repo: ckstore.Repo) -> None:
    repo.commit(STATE)
    with pytest.raises(ckstore.InvalidInput, match="no component 'modle'") as caught:
        _ = repo["HEAD"]["modle"]
    assert caught.value.hint == "did you mean model?"


# Live objects


class Target(NamedTuple):
    """A model and its optimizer after two steps."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer


def optimizer_of(kind: str, model: torch.nn.Module) -> torch.optim.Optimizer:
    if kind == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=0.1)
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def trained(kind: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> Target:
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2)).to(dtype)
    optimizer = optimizer_of(kind, model)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(5, 4, dtype=dtype)).sum().backward()
        optimizer.step()
    return Target(model, optimizer)


def snapshot(target: Target) -> dict[str, Any]:
    with torch.no_grad():
        copied: dict[str, Any] = torch.utils._pytree.tree_map(
            lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf,
            {"model": dict(target.model.state_dict()), "optimizer": target.optimizer.state_dict()},
        )
    return copied


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
@pytest.mark.parametrize("begun", [True, False])
def test_into_a_model_and_its_optimizer(repo: ckstore.Repo, kind: str, begun: bool) -> None:
    source = trained(kind)
    repo.commit(source._asdict(), step=2)
    target = trained(kind, seed=1)
    if not begun:
        target = Target(target.model, optimizer_of(kind, target.model))
    report = repo["HEAD"].load(into=target._asdict())
    assert (report.missing, report.unexpected) == ((), ())
    assert_same_components(snapshot(source), snapshot(target))
    for one in (source, target):
        torch.manual_seed(3)
        one.optimizer.zero_grad()
        one.model(torch.randn(5, 4)).sum().backward()
        one.optimizer.step()
    assert_same_components(snapshot(source), snapshot(target))


def test_moments_keep_their_dtype(repo: ckstore.Repo) -> None:
    source, target = trained("adamw", torch.bfloat16), trained("adamw", torch.bfloat16, seed=1)
    for state in source.optimizer.state.values():
        state["exp_avg"] = torch.randn_like(state["exp_avg"], dtype=torch.float32)
        state["exp_avg_sq"] = torch.rand_like(state["exp_avg_sq"], dtype=torch.float64)
    repo.commit(source._asdict())
    repo["HEAD"].load(into=target._asdict())
    assert_same_components(snapshot(source), snapshot(target))
    kinds = {(s["exp_avg"].dtype, s["exp_avg_sq"].dtype) for s in target.optimizer.state.values()}
    assert kinds == {(torch.float32, torch.float64)}


def test_into_a_scheduler(repo: ckstore.Repo) -> None:
    _, optimizer = trained("sgd")
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    for _ in range(3):
        optimizer.step()
        scheduler.step()
    repo.commit({"scheduler": scheduler})
    other = torch.optim.lr_scheduler.StepLR(trained("sgd").optimizer, 2)
    repo["HEAD"].load(into={"scheduler": other})
    assert other.state_dict() == scheduler.state_dict()


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda s: s["model"].pop("2.bias"), r"missing model\.2\.bias"),
        (lambda s: s["model"].update(extra=torch.ones(1)), r"unexpected model\.extra"),
        (lambda s: s["model"].update({"2.bias": torch.ones(3)}), r"model\.2\.bias has shape \(3,\), the target \(2,\)"),
        (lambda s: s["model"].update({"2.bias": None}), r"model\.2\.bias is a NoneType, not a tensor"),
        (lambda s: s.update(model=[1]), "model is a list, not a state dict"),
        (lambda s: s["optimizer"]["param_groups"][0]["params"].pop(), "parameter groups of"),
        (lambda s: s["optimizer"].pop("param_groups"), "optimizer is no optimizer state dict"),
        (lambda s: s["optimizer"].update(state=[]), "optimizer is no optimizer state dict"),
        (lambda s: s["optimizer"].update(param_groups=[1]), "optimizer is no optimizer state dict"),
        (lambda s: s["optimizer"]["state"][0].update(exp_avg=torch.ones(3)), r"optimizer\.state\.0\.exp_avg has shape"),
        (lambda s: s["optimizer"]["state"][0].update(step=torch.ones(3)), r"optimizer\.state\.0\.step has shape"),
        (lambda s: s.pop("optimizer"), "no component 'optimizer'"),
    ],
)
def test_what_does_not_fit_touches_nothing(repo: ckstore.Repo, spoil: Any, match: str) -> None:
    state = snapshot(trained("adamw"))
    spoil(state)
    repo.commit(state)
    target = trained("adamw", seed=1)
    before = snapshot(target)
    with pytest.raises(ckstore.InvalidInput, match=match):
        repo["HEAD"].load(into=target._asdict())
    assert_same_components(before, snapshot(target))


def test_not_strict_loads_what_both_have(repo: ckstore.Repo) -> None:
    state = snapshot(trained("adamw"))
    del state["model"]["2.bias"]
    state["model"]["extra"] = torch.ones(1)
    repo.commit(state)
    target = trained("adamw", seed=1)
    bias = target.model.state_dict()["2.bias"].clone()
    report = repo["HEAD"].load(into={"model": target.model}, strict=False)
    assert (report.missing, report.unexpected) == (("model.2.bias",), ("model.extra",))
    assert torch.equal(target.model.state_dict()["2.bias"], bias)
    assert torch.equal(target.model.state_dict()["0.weight"], state["model"]["0.weight"])


def test_into_what_cannot_be_loaded_into(repo: ckstore.Repo) -> None:
    repo.commit({"model": {"w": torch.ones(2)}})
    with pytest.raises(ckstore.InvalidInput, match="has no load_state_dict"):
        repo["HEAD"].load(into={"model": {}})


# Chunks, slabs, pages


def test_growth_of_one_tensor_leaves_the_others_alone(repo: ckstore.Repo) -> None:
    state = {name: torch.randn(3 << 18) for name in "abc"}
    repo.commit({"model": state})
    before = chunks(repo, trees(repo)["model"])
    grown = repo.commit({"model": {**state, "a": torch.cat([state["a"], torch.randn(100)])}})
    after = chunks(repo, trees(repo)["model"])
    assert after[:3] == before[:3]
    assert after[4:] == before[3:]
    assert grown.new_objects == 3  # the tail of a, the tree, the commit


def test_chunks_are_fixed_and_named_by_their_bytes(repo: ckstore.Repo) -> None:
    data = torch.randint(0, 255, (2 * CHUNK_SIZE + 5,), dtype=torch.uint8)
    repo.commit({"model": {"w": data}})
    store = repo._repository.store.objects
    parts = [store.read(Kind.CHUNK, id) for id in chunks(repo, trees(repo)["model"])]
    assert [len(part) for part in parts] == [CHUNK_SIZE, CHUNK_SIZE, 5]
    assert b"".join(parts) == data.numpy().tobytes()


def test_small_tensors_are_joined(repo: ckstore.Repo) -> None:
    state = {
        f"p{n}": {"step": torch.tensor(float(n)), "m": torch.full((n % 50,), n, dtype=torch.bfloat16)}
        for n in range(10_000)
    }
    result = repo.commit({"optimizer": state})
    assert result.new_objects < 20
    assert_same_components({"optimizer": state}, repo["HEAD"].load())
    assert repo["HEAD"]["optimizer"]["p777"]["step"].load() == 777
    assert repo["HEAD"]["optimizer"]["p777"]["m"][3:5].tolist() == [776, 776]  # bfloat16


def test_a_slab_holds_one_dtype_in_order_of_paths(repo: ckstore.Repo) -> None:
    repo.commit({"m": {"b": torch.ones(2), "a": torch.zeros(3), "c": torch.ones(2, dtype=torch.int8)}})
    tree = read_tree(repo._repository.store.objects, trees(repo)["m"])
    assert [(slab.dtype, slab.length) for slab in tree.slabs] == [("float32", 20), ("int8", 2)]
    places = [entry.value.data for entry in tree.entries if isinstance(entry.value, Tensor)]
    assert places == [InSlab(0, 12, 8), InSlab(0, 0, 12), InSlab(1, 0, 2)]


def test_a_long_tree_is_cut_into_pages(repo: ckstore.Repo) -> None:
    weight = torch.arange(3.0)
    state = {f"entry number {n}, with a long name": [n, (weight, weight[1:]), {}] for n in range(15_000)}
    repo.commit({"data": state, "model": {"w": torch.ones(3)}})
    store = repo._repository.store.objects
    tree = read_tree(store, trees(repo)["data"])
    assert len(tree.pages) > 2
    assert max(len(store.read(Kind.TREE, ref.id)) for ref in tree.pages) <= PAGE_LIMIT
    assert sum(isinstance(entry.value, Alias) for entry in tree.entries) == 2 * 15_000 - 1
    assert_same_components({"data": state, "model": {"w": torch.ones(3)}}, repo["HEAD"].load())
    changed = repo.commit({"data": {**state, "one more": 1}, "model": {"w": torch.ones(3)}})
    assert (
        changed.new_objects == 3 + 1
    )  # its root, its first page (which counts the children), its last page, the commit
    assert repo.verify(read_data=True).ok


@pytest.mark.parametrize("count", [1, 65_535, 65_536, 65_537, CHUNK_SIZE, CHUNK_SIZE + 1])
def test_lengths_about_the_limits(repo: ckstore.Repo, count: int) -> None:
    state = {
        "m": {
            "bytes": torch.randint(0, 9, (count,), dtype=torch.uint8),
            "blob": bytes(count),
            "text": "ä" * (count // 2),
        }
    }
    repo.commit(state)
    assert_same_components(state, repo["HEAD"].load())


def test_as_deep_as_can_be(repo: ckstore.Repo) -> None:
    deep: Any = torch.ones(2)
    for _ in range(200):
        deep = [deep]
    repo.commit({"c": deep})
    assert_same_components({"c": deep}, repo["HEAD"].load())
