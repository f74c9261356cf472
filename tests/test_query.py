"""Which commits are asked for, and in what order."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from ckstore.errors import InvalidInput
from ckstore.graph.history import CommitInfo
from ckstore.graph.query import ordered, parse, select
from ckstore.porcelain.log import LogOptions, log

if TYPE_CHECKING:
    import ckstore

NOW = 10**18
HOUR = 3600 * 10**9


def info(number: int, **fields: Any) -> CommitInfo:
    given: dict[str, Any] = {
        "id": f"{number:064x}",
        "parents": (),
        "components": ("model",),
        "step": None,
        "epoch": None,
        "metrics": {},
        "message": "",
        "author": "",
        "time_ns": NOW - number * HOUR,
        "offset_min": 0,
    }
    return CommitInfo(**given | fields)


COMMITS = [
    info(1, step=100, metrics={"val/loss": 0.5, "acc": 0.9}, message="warm up", branches=("main",)),
    info(2, step=200, metrics={"val/loss": 0.25}, author="ada", tags=("v1",)),
    info(3, epoch=2, metrics={"val/loss": math.nan}, components=("model", "optimizer")),
    info(4, message="warm again"),
]


@pytest.mark.parametrize(
    ("conditions", "numbers"),
    [
        (["step>100"], [2]),
        (["step >= 100"], [1, 2]),
        (["step!=100"], [2]),
        (["val/loss<0.5"], [2]),
        (["val/loss<=0.5", "acc>0.8"], [1]),
        (["acc=0.9"], [1]),
        (["message~warm"], [1, 4]),
        (["message=warm up"], [1]),
        (["branch=main"], [1]),
        (["tag==v1"], [2]),
        (["author!=ada"], [1, 3, 4]),
        (["component=optimizer"], [3]),
        (["age<150m"], [1, 2]),
        (["age>=3h"], [3, 4]),
        (["epoch=2"], [3]),
        (["id=" + "0" * 63 + "4"], [4]),
        (["step>1000"], []),
    ],
)
def test_conditions(conditions: list[str], numbers: list[int]) -> None:
    found = select(COMMITS, map(parse, conditions), NOW)
    assert [int(one.id, 16) for one in found] == numbers


@pytest.mark.parametrize(
    ("field", "descending", "numbers"),
    [
        ("step", False, [1, 2, 3, 4]),
        ("step", True, [2, 1, 3, 4]),
        ("val/loss", False, [2, 1, 3, 4]),
        ("val/loss", True, [1, 2, 3, 4]),
        ("time", False, [4, 3, 2, 1]),
        ("author", False, [1, 3, 4, 2]),
        ("tag", False, [2, 1, 3, 4]),
    ],
)
def test_order(field: str, descending: bool, numbers: list[int]) -> None:
    assert [int(one.id, 16) for one in ordered(COMMITS, field, descending=descending)] == numbers


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("step", "step>1000"),
        ("step>", "step>1000"),
        ("val/los<1", "val/loss"),
        ("step~1", "searches in texts"),
        ("step>many", "write"),
        ("age<soon", "age<2h"),
        ("branch<main", "contains"),
    ],
)
def test_what_is_no_condition_is_told(text: str, hint: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        select(COMMITS, [parse(text)], NOW)
    assert raised.value.hint is not None
    assert hint in raised.value.hint


def test_an_unknown_field_to_sort_by_is_told() -> None:
    with pytest.raises(InvalidInput, match="losss"):
        ordered(COMMITS, "losss", descending=False)


def test_log_selects_sorts_and_limits(repo: ckstore.Repo) -> None:
    for step in range(6):
        repo.commit({"x": step}, step=step, metrics={"loss": (step - 3) ** 2})
    options = LogOptions(NOW, where=["step>0"], sort="loss", limit=2)
    assert [one.step for one in log(repo._repository, options)] == [3, 4]
    assert log(repo._repository, LogOptions(NOW, where=["loss>100"])) == ()
