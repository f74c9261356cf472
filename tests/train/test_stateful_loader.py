"""torchdata's StatefulDataLoader: its own place is not asked for; it goes on exactly, at an epoch's end too."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest

from ckstore.errors import InvalidInput
from ckstore.train.data import positions
from tests.train.pipelines import Augmented, Counted, Plain, Remembering, Stream, generator
from tests.train.resuming import drawn, kept, resumed, seed, straight, written

if TYPE_CHECKING:
    from pathlib import Path

# torchdata 0.11 calls what torch 2.13 has given up.
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")

StatefulDataLoader: Any = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader

KINDS: dict[str, dict[str, Any]] = {
    "in order": {"dataset": Plain},
    "shuffled": {"dataset": Augmented, "shuffle": True},
    "generator": {"dataset": Augmented, "shuffle": True, "generator": generator},
    "counted": {"dataset": Counted, "shuffle": True},
    "stream": {"dataset": Stream},
    "remembering": {"dataset": Remembering},
}


def made(kind: str, workers: int, **options: Any) -> Any:
    values = {name: value() if callable(value) else value for name, value in KINDS[kind].items()}
    context = "fork" if workers else None
    return StatefulDataLoader(batch_size=3, num_workers=workers, multiprocessing_context=context, **values, **options)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_resume(kind: str, workers: int, tmp_path: Path) -> None:
    def make() -> Any:
        return made(kind, workers)

    record, places = straight(make, 3, {0, 2, 4, 5, 7} if workers == 0 else {2, 4, 5})
    for number, (state, rng) in kept(tmp_path, places).items():
        walk = resumed(make, state, rng)
        walk.epochs(3)
        walk.position.close()
        assert walk.record == record[number:], f"after {number} entries"


def test_persistent_workers(tmp_path: Path) -> None:
    def make() -> Any:
        return made("shuffled", 2, persistent_workers=True)

    record, places = straight(make, 3, {2, 5, 7})
    for number, (state, rng) in kept(tmp_path, places).items():
        walk = resumed(make, state, rng)
        walk.epochs(3)
        walk.position.close()
        assert walk.record == record[number:], f"after {number} entries"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_plain_loop_gives_the_same(workers: int) -> None:
    seed(4)
    loader = made("shuffled", workers)
    plain = [(written(batch), drawn()) for _ in range(2) for batch in loader]
    seed(4)
    position = positions(made("shuffled", workers))
    assert [(written(batch), drawn()) for _ in range(2) for batch in position.rest()] == plain


def test_a_state_given_before_the_run_is_refused() -> None:
    loader = made("shuffled", 0)
    list(itertools.islice(loader, 2))
    other = made("shuffled", 0)
    other.load_state_dict(loader.state_dict())
    with pytest.raises(InvalidInput, match="given a state already"):
        positions(other)
