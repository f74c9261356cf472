"""What validate finds in real commits, and what it leaves alone."""

from __future__ import annotations

import math
import random
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import ckstore
from ckstore.cli.main import app
from ckstore.errors import Integrity, InvalidInput, NoRevision
from ckstore.graph.content import ContentFinding, is_float, is_model, is_optimizer
from ckstore.graph.numbers import is_numeric
from ckstore.plugins import GROUP, plugins
from ckstore.porcelain.validate import ValidateOptions, validate
from ckstore.torch.expected import expected_tensors, factory_named
from ckstore.torch.tensors import DTYPES
from tests.committed import put
from tests.strategies import filled
from tests.trained import Training

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ckstore.porcelain.validate import ValidateResult

FLOATS = sorted(name for name in DTYPES if is_numeric(name) and is_float(name) and name == str(DTYPES[name])[6:])
WITHOUT_INF = {"float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"}


def whole(model: object, **more: object) -> dict[str, object]:
    """A state that lacks nothing, of which only the model can be found fault with."""
    return {"model": model, "optimizer": {"lr": 0.1}, "rng": torch.get_rng_state(), **more}


def found(result: ValidateResult) -> list[tuple[str, str, str, str]]:
    return [(one.severity, one.check, one.path, one.what) for one in result.findings]


def of_commit(repo: ckstore.Repo, state: object, **asked: Any) -> list[tuple[str, str, str, str]]:
    repo.commit(state, preset="fast")
    return found(repo.validate(**asked))


# NaN and infinities


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize("name", FLOATS)
def test_nan_and_inf_of_every_dtype(repo: ckstore.Repo, name: str) -> None:
    """In a slab and in several chunks, each counted, with the first of them."""
    dtype = DTYPES[name]
    for count in (500, 2_500_001 // dtype.itemsize):
        values = torch.ones(count, dtype=torch.float32).to(dtype)
        values[count - 7] = math.nan
        assert values[count - 7].to(torch.complex64 if dtype.is_complex else torch.float32).isnan()
        expected = f"1 NaN of {count} elements, the first at flat index {count - 7}"
        if name not in WITHOUT_INF:
            values[count - 3], values[count - 5] = -math.inf, math.inf
            expected = f"1 NaN and 2 Inf of {count} elements, the first at flat index {count - 7}"
        assert of_commit(repo, whole({}, x=[values])) == [("problem", "nan-inf", "x.0", expected)]


def test_the_first_is_not_told_where_elements_lie_otherwise(repo: ckstore.Repo) -> None:
    plain = torch.ones(30, 20)
    plain[3, 4] = math.inf
    state = {"plain": plain, "turned": plain.clone().t(), "wide": torch.tensor([[math.nan]]).expand(4, 5)}
    assert of_commit(repo, whole({}, x=state)) == [
        ("problem", "nan-inf", "x.plain", "1 Inf of 600 elements, the first at flat index 64"),
        ("problem", "nan-inf", "x.turned", "1 Inf of 600 elements"),
        ("problem", "nan-inf", "x.wide", "20 NaN of 20 elements"),
    ]


def test_sound_states_are_left_alone(repo: ckstore.Repo) -> None:
    training = Training(width=64)
    training.step(3)
    repo.commit({**training.state(), "rng": {"torch": torch.get_rng_state(), "python": random.getstate()}})
    result = repo.validate()
    assert (result.ok, result.findings, result.unmeasured, result.against) == (True, (), 0, None)
    assert result.tensors == 5 + 3 * 5 + 1
    training.step(3)
    repo.commit({**training.state(), "rng": {"torch": torch.get_rng_state()}})
    assert found(repo.validate(against="HEAD~1")) == []
    assert found(repo.validate(against=training.model)) == []


# Weights that explode or are zero


def test_zero_weights(repo: ckstore.Repo) -> None:
    model = {"w": torch.zeros(3, 4), "b": torch.zeros(4), "e": torch.empty(0, 4), "almost": torch.eye(3)}
    moments = {"exp_avg": torch.zeros(3, 4)}
    assert of_commit(repo, {**whole(model), "optimizer": moments}) == [
        ("problem", "zero", "model.w", "all 12 elements are zero")
    ]


def test_exploding_weights(repo: ckstore.Repo) -> None:
    model = {
        "w": torch.tensor([1.0, -2e6]),
        "edge": torch.tensor([1e6, -1e6]),
        "c": torch.tensor([3e6 + 4e6j]),
        "num_batches_tracked": torch.tensor(10**9),
        "half": torch.full((3,), 60000.0, dtype=torch.float16),
    }
    assert of_commit(repo, whole(model, other={"w": torch.tensor(1e30)})) == [
        ("problem", "exploding", "model.w", "the largest absolute value is 2e+06"),
        ("problem", "exploding", "model.c", "the largest absolute value is 5e+06"),
    ]


def test_norms_that_grew(repo: ckstore.Repo) -> None:
    model = {"w": torch.full((10, 10), 1e-3), "same": torch.full((5,), 1e-9), "b": torch.zeros(4), "k": torch.ones(1)}
    repo.commit(whole(model, optimizer_2={"step": torch.tensor(1.0)}))
    grown = {**model, "w": torch.full((10, 10), 2.0), "b": torch.ones(4), "k": torch.full((1,), 999.0)}
    state = whole(grown, optimizer_2={"step": torch.tensor(1e5)})
    assert of_commit(repo, state, against="HEAD~1") == [
        ("problem", "exploding", "model.w", "the norm grew from 0.01 to 20")
    ]
    assert found(repo.validate()) == []


# Shapes


def test_shapes_against_a_commit(repo: ckstore.Repo) -> None:
    old = {"same": torch.ones(2), "gone": torch.ones(3, 4), "shape": torch.ones(5), "dtype": torch.ones(6)}
    repo.commit(whole(old, only_there={"x": torch.ones(1)}))
    new = {
        "same": torch.ones(2), "new": torch.tensor(1.0), "shape": torch.ones(5, 1), "dtype": torch.ones(6).bfloat16(),
    }  # fmt: skip
    state = whole(new, only_here={"x": torch.ones(1)})
    state["optimizer"] = {"lr": 0.1, "exp_avg": torch.ones(2)}
    assert of_commit(repo, state, against="HEAD~1") == [
        ("problem", "shapes", "model.gone", "missing: float32 3x4"),
        ("problem", "shapes", "model.new", "unexpected: float32 scalar"),
        ("problem", "shapes", "model.shape", "is float32 5x1, not float32 5"),
        ("problem", "shapes", "model.dtype", "is bfloat16 6, not float32 6"),
        ("warning", "shapes", "optimizer.exp_avg", "unexpected: float32 2"),
    ]
    chosen = repo.validate(against="HEAD~1", only=["model.gone", "model.dtype"])
    assert [one.path for one in chosen.findings] == ["model.gone", "model.dtype"]
    assert (chosen.tensors, chosen.against is not None) == (1, True)


def other_model() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.BatchNorm1d(5))


def test_shapes_against_a_model(repo: ckstore.Repo) -> None:
    state = dict(other_model().state_dict())
    del state["1.running_mean"]
    state |= {"0.bias": torch.ones(6), "0.weight": torch.ones(5, 4, dtype=torch.float64), "head": torch.ones(1)}
    expected = [
        ("problem", "shapes", "model.0.weight", "is float64 5x4, not float32 5x4"),
        ("problem", "shapes", "model.0.bias", "is float32 6, not float32 5"),
        ("problem", "shapes", "model.1.running_mean", "missing: float32 5"),
        ("problem", "shapes", "model.head", "unexpected: float32 1"),
    ]
    assert of_commit(repo, whole(state), against=other_model()) == expected
    assert found(repo.validate(against=other_model().state_dict())) == expected
    drawn = torch.get_rng_state()
    assert found(repo.validate(against=other_model)) == expected
    assert torch.equal(torch.get_rng_state(), drawn)
    assert found(repo.validate(against=other_model, only="model.1.*")) == expected[2:3]
    assert found(repo.validate(against=other_model, only="model.0.bias")) == expected[1:2]
    assert found(repo.validate(against=other_model, only="model")) == expected


def test_what_says_nothing_of_tensors(repo: ckstore.Repo) -> None:
    repo.commit(whole({"w": torch.ones(2)}))

    def broken() -> object:
        raise ValueError("no weights here")

    given: dict[str, object] = {
        "a int says nothing": 5,
        "a str says nothing": lambda: "model",
        "no tensor to compare": {},
        "has no shape yet": torch.nn.LazyLinear(3),
        "raised ValueError": broken,
    }
    for what, against in given.items():
        with pytest.raises(InvalidInput, match=what) as caught:
            repo.validate(against=against)
        assert caught.value.hint


def test_a_commit_without_a_model(repo: ckstore.Repo) -> None:
    repo.commit({"encoder": {"w": torch.ones(2)}, "decoder": {"w": torch.ones(2)}})
    with pytest.raises(InvalidInput, match="no component 'model'") as caught:
        repo.validate(against={"w": torch.ones(2)})
    assert (caught.value.why, bool(caught.value.hint)) == ("it has encoder, decoder", True)
    repo.commit({"w": torch.ones(2)}["w"])  # the only component is the one
    assert [one.check for one in repo.validate(against={"w": torch.ones(2)}).findings].count("shapes") == 2


# What a commit lacks


def test_what_is_missing(repo: ckstore.Repo, tmp_path: Path) -> None:
    optimizer = ("warning", "missing", "", "no optimizer state: no component is called so")
    rng = ("warning", "missing", "", "no RNG state: nothing is called rng, and no generator is kept")
    model = {"w": torch.ones(2, 2)}
    assert of_commit(repo, {"model": model}) == [optimizer, rng]
    assert of_commit(repo, {"model": model, "optim_state": {}}) == [rng]
    for extra in ({"cuda_rng_state": [1]}, {"loader": torch.Generator()}, {"random_states": [1]}):
        assert of_commit(repo, {"model": model, "extra": extra}) == [optimizer]
    assert of_commit(repo, {"model": {"wrong": torch.ones(1)}}) == [optimizer, rng]
    assert found(repo.validate(only="model")) == []
    save_file(model, tmp_path / "weights.safetensors")
    repo.commit_files(tmp_path / "weights.safetensors")
    assert found(repo.validate()) == [optimizer, rng]
    put(tmp_path / "run/model.pt", {"w": torch.zeros(2, 2)})
    put(tmp_path / "run/optimizer.pt", {"state": {0: {"m": torch.zeros(2, 2)}}})
    put(tmp_path / "run/rng_state.pth", {"cpu": torch.get_rng_state()})
    repo.commit_files(tmp_path / "run")
    assert found(repo.validate()) == [("problem", "zero", "model.w", "all 4 elements are zero")]


def test_names_of_components() -> None:
    assert [name for name in ("model", "a/model", "model_state_dict", "state_dict", "EMA_model") if is_model(name)] == [
        "model", "a/model", "model_state_dict", "state_dict", "EMA_model",
    ]  # fmt: skip
    assert not [name for name in ("optimizer", "model_optimizer", "model/rng", "config", "state") if is_model(name)]
    assert [name for name in ("optimizer", "optim", "a/optimizer_state", "model") if is_optimizer(name)] == [
        "optimizer", "optim", "a/optimizer_state",
    ]  # fmt: skip


# What cannot be asked


def test_bad_input(repo: ckstore.Repo) -> None:
    with pytest.raises(NoRevision):
        repo.validate()
    repo.commit(whole({"layer": torch.ones(2)}))
    with pytest.raises(InvalidInput, match=r"nothing matches model\.layr") as caught:
        repo.validate(only="model.layr")
    assert caught.value.hint is not None
    assert "model.layer" in caught.value.hint
    with pytest.raises(InvalidInput, match="nothing matches") as caught:
        repo.validate(only=[])
    assert caught.value.hint == "leave only out to look at all"
    with pytest.raises(NoRevision):
        repo.validate("mian")
    with pytest.raises(NoRevision):
        repo.validate(against="mian")


def test_a_factory_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_models_of_a_test.py").write_text("number = 5\n\nclass A:\n    make = dict\n")
    (tmp_path / "raising_models_of_a_test.py").write_text("import sys\nsys.exit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    wrong = {
        "model": "names no factory",
        ":build": "names no factory",
        "no_such_module_at_all:build": "cannot be imported",
        "raising_models_of_a_test:build": "cannot be imported",
        "broken_models_of_a_test:build": "has no build",
        "broken_models_of_a_test:number": "cannot be called",
    }
    for place, what in wrong.items():
        with pytest.raises(InvalidInput, match=what) as caught:
            factory_named(place)
        assert caught.value.hint
    assert factory_named("broken_models_of_a_test:A.make") is dict
    assert expected_tensors({"a": torch.ones(2, 3), "step": 4}) == {"a": ((2, 3), "float32")}


def test_damage_is_no_finding(repo: ckstore.Repo) -> None:
    repo.commit(whole({"w": torch.randn(1000, 1000)}), preset="fast")
    for pack in (repo.path / ".ckstore" / "packs").rglob("*.pack"):
        data = bytearray(pack.read_bytes())
        if len(data) > 1 << 20:
            data[len(data) // 2] ^= 0xFF
            pack.chmod(0o644)
            pack.write_bytes(data)
    with ckstore.open(repo.path) as again, pytest.raises(Integrity):
        again.validate()


# Plug-ins

PLUGIN = """
from ckstore import ContentFinding

def norms(tensors):
    for one in tensors:
        if one.path.endswith("norm") and one.statistics.mean != 1:
            what = f"{one.component} {one.dtype} {one.shape} {one.statistics.mean}"
            yield ContentFinding("norms", one.path, what, "warning")

def raising(tensors):
    yield ContentFinding("first", next(tensors).path, "seen")
    raise ValueError("lost the thread")

def leaving(tensors):
    raise SystemExit(3)

def numbers(tensors):
    return [3]

def severe(tensors):
    return [ContentFinding("a", "", "b", "terrible")]

constant = 5
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Makes a package with entry points, as pip would have installed it."""

    def install(**named: str) -> None:
        site = tmp_path / "site"
        about = site / "ckstore_checks_of_a_test-1.0.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: ckstore-checks-of-a-test\nVersion: 1.0\n")
        lines = [f"{name.replace('__', '.')} = {place}" for name, place in named.items()]
        (about / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *lines, ""]))
        (site / "checks_of_a_test.py").write_text(PLUGIN)
        monkeypatch.syspath_prepend(site)

    yield install
    sys.modules.pop("checks_of_a_test", None)


def test_plugins_by_kind(installed: Callable[..., None]) -> None:
    assert plugins("validator") == ()
    installed(
        validator__b="checks_of_a_test:norms", validator__a="absent:x", storage__c="checks_of_a_test:x", validator="x:y"
    )
    assert [(one.kind, one.name) for one in plugins("validator")] == [("validator", "a"), ("validator", "b")]
    assert [one.name for one in plugins("storage")] == ["c"]
    assert "checks_of_a_test" not in sys.modules


def test_a_plugin_finds(repo: ckstore.Repo, installed: Callable[..., None]) -> None:
    installed(validator__norms="checks_of_a_test:norms")
    repo.commit(whole({"norm": torch.full((4,), 3.0), "w": torch.ones(4)}, other={"norm": torch.ones(2)}))
    result = repo.validate()
    assert found(result) == [("warning", "norms", "model.norm", "model float32 (4,) 3.0")]
    assert (result.validators, result.ok) == (("norms",), False)


def test_a_plugin_that_fails_is_a_finding(repo: ckstore.Repo, installed: Callable[..., None]) -> None:
    names = "raising", "leaving", "numbers", "severe", "constant", "absent"
    installed(**{f"validator__{name}": f"checks_of_a_test:{name}" for name in names})
    repo.commit(whole({"w": torch.ones(4)}))
    told = {(one.check, one.path): (one.severity, one.what) for one in repo.validate().findings}
    assert told.pop(("first", "model.w")) == ("problem", "seen")
    assert {severity for severity, _ in told.values()} == {"problem"}
    for name, what in (
        ("raising", "raised ValueError: lost the thread"),
        ("leaving", "raised SystemExit: 3"),
        ("numbers", "gave a int"),
        ("severe", "'terrible' is no severity"),
        ("constant", "checks_of_a_test:constant cannot be called"),
        ("absent", "cannot be imported from checks_of_a_test:absent (AttributeError"),
    ):
        assert what in told.pop((f"validator.{name}", ""))[1]
    assert told == {}


def test_findings_keep_to_two_severities() -> None:
    assert ContentFinding("a", "", "b").severity == "problem"
    with pytest.raises(InvalidInput, match="no severity"):
        ContentFinding("a", "", "b", "fatal")


# The verb and the command


def test_files_and_odd_tensors(repo: ckstore.Repo) -> None:
    """Packed elements are no numbers; every tensor is counted."""
    odd = {"packed": filled(torch.float4_e2m1fn_x2, 10, 0), "i": torch.arange(5), "e": torch.empty(0)}
    repo.commit(whole({}, odd=odd))
    result = validate(repo._repository, "HEAD", ValidateOptions(0, expected={}, only=["odd", "model"]))
    assert (result.findings, result.tensors, result.unmeasured) == ((), 3, 1)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "net_of_a_test.py").write_text("import torch\n\ndef build():\n    return torch.nn.Linear(3, 2)\n")
    with ckstore.open(tmp_path) as repo:
        repo.commit(whole(torch.nn.Linear(3, 2)))
        repo.commit({"model": {"weight": torch.full((2, 4), math.nan), "bias": torch.ones(2)}})
    runner = CliRunner()
    ran = runner.invoke(app, ["validate", "HEAD~1", "--model", "net_of_a_test:build"])
    assert (ran.exit_code, ran.stdout.splitlines()[1:]) == (0, ["Nothing found."])
    ran = runner.invoke(app, ["validate", "--model", "net_of_a_test:build", "--against", "HEAD~1"])
    assert ran.exit_code == 4
    assert [line.split()[:3] for line in ran.stdout.splitlines()[1:-1]] == [
        ["problem", "nan-inf", "model.weight:"],
        ["problem", "shapes", "model.weight:"],
        ["problem", "shapes", "model.weight:"],
        ["warning", "missing", "no"],
        ["warning", "missing", "no"],
    ]
    assert ran.stdout.splitlines()[-1] == "3 problems, 2 warnings."
    assert runner.invoke(app, ["validate", "--only", "model.bias"]).exit_code == 0
    for words in (["nosuch"], ["--only", "nosuch"], ["--model", "nosuch_of_a_test:build"]):
        failed = runner.invoke(app, ["validate", *words])
        assert isinstance(failed.exception, ckstore.CkstoreError)
        assert failed.exception.hint or words == ["nosuch"]
