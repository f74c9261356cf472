"""A place in data: what it counts, what it refuses, and that keeping it changes nothing."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler, Subset

from ckstore.errors import CkstoreWarning, InvalidInput
from ckstore.train.data import positions
from ckstore.train.rng import capture_rng, restore_rng
from tests.train.pipelines import (
    LOADERS,
    STREAMS,
    WORKERS,
    Augmented,
    Drawing,
    Plain,
    Remembering,
    Stream,
    _python,
    workers,
)
from tests.train.resuming import Walk, drawn, kept, resumed, seed, straight, written

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

UNTOUCHED = {**LOADERS, **{name: STREAMS[name] for name in ("stream", "again", "list")}, **WORKERS}


@pytest.mark.parametrize("kind", UNTOUCHED)
def test_a_plain_loop_gives_the_same(kind: str) -> None:
    seed(4)
    data: Any = UNTOUCHED[kind]()
    plain = [(written(batch), drawn()) for _ in range(2) for batch in data]
    del data
    seed(4)
    position = positions(UNTOUCHED[kind]())
    through = [(written(batch), drawn()) for _ in range(2) for batch in position.rest()]
    assert through == plain
    assert (position.epoch, position.batches) == (2, 0)
    position.close()


def test_a_loop_left_by_break_goes_on() -> None:
    position = positions(DataLoader(Plain(), batch_size=3))
    taken: list[Any] = list(itertools.islice(position.rest(), 2))
    assert (position.epoch, position.batches) == (0, 2)
    rest = position.rest()
    taken += list(rest)
    assert [batch[0, 0].item() for batch in taken] == [0, 3, 6, 9]
    assert (position.epoch, position.batches) == (1, 0)
    with pytest.raises(StopIteration):
        next(rest)
    assert len(list(position.rest())) == 4


@pytest.mark.parametrize(
    "make", [LOADERS["drawing torch"], WORKERS["drawing"], WORKERS["persistent"], STREAMS["stream"]]
)
def test_killed_again_and_again(make: Callable[[], object], tmp_path: Path) -> None:
    record, places = straight(make, 2, {2})
    state, rng = places[2]
    done = 2
    for turn, steps in enumerate([0, 1, 2, 1, 3]):
        state, rng = kept(tmp_path / str(turn), (state, rng))
        walk = resumed(make, state, rng)
        rest = walk.position.rest()
        for _ in range(steps):
            if not walk.step(rest):
                rest = walk.position.rest()
        assert walk.record == record[done : done + steps]
        done += steps
        state, rng = walk.position.state(), capture_rng()
        walk.position.close()


@pytest.mark.parametrize("make", [LOADERS["drawing torch"], LOADERS["single"], WORKERS["fork"], STREAMS["remembering"]])
@pytest.mark.parametrize("number", [1, 3])
def test_a_batch_not_done_comes_again(make: Callable[[], object], number: int, tmp_path: Path) -> None:
    record, _ = straight(make, 1, set())
    seed(1)
    walk = Walk(make)
    rest = walk.position.rest()
    for _ in range(number - 1):
        walk.step(rest)
    next(rest)
    state, rng = walk.position.state(unfinished=True), walk.position.rng_before
    walk.position.close()
    again = resumed(make, *kept(tmp_path, (state, rng)))
    assert again.position.batches == number - 1
    again.epochs(1)
    again.position.close()
    assert again.record == record[number - 1 :]


def test_nothing_is_unfinished_between_epochs() -> None:
    position = positions(DataLoader(Plain(), batch_size=3))
    list(position.rest())
    assert position.rng_before is None
    assert position.state(unfinished=True) == position.state()


def test_finished_batches_are_not_loaded_again() -> None:
    def first(position: Any) -> Any:
        return next(position.rest())

    before = positions(DataLoader(Augmented(), batch_size=1))
    for _ in range(5):
        first(before)
    dataset = Augmented()
    after = positions(DataLoader(dataset, batch_size=1))
    after.restore(before.state())
    first(after)
    assert dataset.calls == 1
    stream = Remembering()
    old, new = positions(DataLoader(Remembering(), batch_size=2)), positions(DataLoader(stream, batch_size=2))
    first(old)
    new.restore(old.state())
    first(new)
    assert stream.loads == [2, 3]


def test_the_random_stream_is_left_as_it_is_found() -> None:
    before = positions(LOADERS["drawing torch"]())
    list(itertools.islice(before.rest(), 2))
    after = positions(WORKERS["stream"]())
    state = before.state()
    other = positions(LOADERS["drawing torch"]())
    seed(6)
    expected = drawn()
    seed(6)
    other.restore(state)
    rest = other.rest()
    assert drawn() == expected
    del rest, after


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (iter([1, 2]), "only once"),
        ((number for number in range(3)), "only once"),
        (zip([1], [2], strict=True), "only once"),
        (7, "cannot be iterated"),
        (Plain, "cannot be iterated"),
        (workers(in_order=False), "in_order=False"),
        (workers(dataset=Stream(), shuffle=None, persistent_workers=True), "go on from epoch to epoch"),
    ],
)
def test_refused_when_the_run_begins(data: object, why: str) -> None:
    with pytest.raises(InvalidInput, match=why) as caught:
        positions(data)
    assert caught.value.hint


class Other(DataLoader[torch.Tensor]):
    pass


def _loader(**options: Any) -> DataLoader[torch.Tensor]:
    return DataLoader(**{"dataset": Plain(), "batch_size": 3, "shuffle": True, **options})


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (_loader(batch_size=4), "batch size was 3 and is 4"),
        (_loader(drop_last=True), "drop_last"),
        (_loader(dataset=Subset(Plain(), range(5))), "length of the dataset was 11 and is 5"),
        (_loader(num_workers=2), "number of workers was 0 and is 2"),
        (_loader(shuffle=False), "kind of sampler"),
        (Other(Plain(), batch_size=3, shuffle=True), "kind of loader"),
        ([1, 2, 3], "kind of data"),
    ],
)
def test_changed_data_is_refused_or_begins_its_epoch_anew(data: Iterable[object], why: str) -> None:
    before = positions(_loader())
    list(before.rest())
    next(before.rest())
    after = positions(data)
    with pytest.raises(InvalidInput, match=why) as caught:
        after.restore(before.state())
    assert "strict=False" in str(caught.value.hint)
    assert (after.epoch, after.batches) == (0, 0)
    with pytest.warns(CkstoreWarning, match="epoch 1 begins anew"):
        after.restore(before.state(), strict=False)
    assert (after.epoch, after.batches) == (1, 0)
    assert len(list(after.rest())) == len(list(data))


def test_a_generator_that_is_gone_is_refused() -> None:
    before = positions(_loader(generator=torch.Generator()))
    next(before.rest())
    with pytest.raises(InvalidInput, match="no random generator generator any more"):
        positions(_loader()).restore(before.state())


def test_data_that_has_become_shorter_is_refused() -> None:
    class Numbers:
        def __init__(self, count: int) -> None:
            self.count = count

        def __iter__(self) -> Iterator[int]:
            return iter(range(self.count))

    before, after = positions(Numbers(6)), positions(Numbers(3))
    list(itertools.islice(before.rest(), 4))
    after.restore(before.state())
    for _ in range(2):
        with pytest.raises(InvalidInput, match="ends after 3 batches, and 4 of this epoch are done"):
            next(after.rest())


@pytest.mark.parametrize("make", [LOADERS["augmented"], WORKERS["fork"], WORKERS["persistent"], STREAMS["stream"]])
def test_back_in_the_same_process(make: Callable[[], object]) -> None:
    seed(3)
    walk = Walk(make)
    walk.epochs(1)
    rest = walk.position.rest()
    walk.step(rest)
    state, rng = walk.position.state(), capture_rng()
    done = len(walk.record)
    walk.epochs(2)
    record = walk.record[done:]
    walk.record = []
    walk.position.restore(state)
    restore_rng(rng)
    walk.epochs(2)
    walk.position.close()
    assert walk.record == record


@pytest.mark.parametrize("state", [{}, {"signature": {}}, {"signature": None}])
def test_what_is_no_place_is_refused(state: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        positions(_loader()).restore(state)


def test_workers_that_draw_nothing_may_become_more() -> None:
    def make(count: int) -> Any:
        return lambda: DataLoader(Plain(), sampler=Drawing(_python), batch_size=2, num_workers=count)

    record, places = straight(make(1), 2, {3})
    walk = resumed(make(2), *places[3])
    walk.epochs(1)
    walk.position.close()
    assert [entry[2] for entry in walk.record] == [entry[2] for entry in record[3:7]]


def test_workers_that_draw_must_stay_as_many() -> None:
    before = positions(workers())
    next(before.rest())
    with pytest.raises(InvalidInput, match="number of workers was 2 and is 1"):
        positions(workers(num_workers=1)).restore(before.state())
    before.close()


def test_the_epoch_of_a_distributed_sampler_comes_back() -> None:
    def make() -> DataLoader[torch.Tensor]:
        dataset = Plain()
        return DataLoader(dataset, sampler=DistributedSampler(dataset, num_replicas=2, rank=0), batch_size=2)

    loader = make()
    before = positions(loader)
    loader.sampler.set_epoch(7)  # type: ignore[attr-defined]
    first: Any = next(before.rest())
    after_loader = make()
    after = positions(after_loader)
    after.restore(before.state())
    rest = [written(batch) for batch in before.rest()]
    assert [written(batch) for batch in after.rest()] == rest
    assert after_loader.sampler.epoch == 7  # type: ignore[attr-defined]
    assert written(first) != rest[0]


def test_an_error_in_the_data_leaves_the_place() -> None:
    class Failing(Plain):
        fails = True

        def __getitem__(self, index: int) -> torch.Tensor:
            if index == 4 and self.fails:
                raise OSError("unreadable")
            return super().__getitem__(index)

    position = positions(DataLoader(Failing(), batch_size=3))
    next(position.rest())
    with pytest.raises(OSError, match="unreadable"):
        next(position.rest())
    assert (position.epoch, position.batches) == (0, 1)


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true")
def test_pinned_batches_come_as_the_loader_makes_them() -> None:
    seed(2)
    expected = [written(batch) for batch in workers(pin_memory=True)]
    seed(2)
    position = positions(workers(pin_memory=True))
    assert [written(batch) for batch in position.rest()] == expected


def test_others_may_draw_from_the_shared_generators_between_batches() -> None:
    """What is written down for it grows only where both draw from the same one."""
    position = positions(DataLoader(Plain(), sampler=Drawing(_python), batch_size=2))
    for _ in itertools.islice(position.rest(), 3):
        torch.rand(5)
        np.random.rand()
    state: Any = position.state()
    assert state["place"]["jumps"] == []
    rng = capture_rng()
    restore_rng(rng)
    drawn()
    next(position.rest())
    later: Any = position.state()
    assert [(jump["at"], list(jump["streams"])) for jump in later["place"]["jumps"]] == [(3, ["python"])]
