"""Power cuts: recorded runs, replayed into what POSIX and a real disk may leave of them (W1 to W5).

Each state is made in a folder of its own and judged; a failure names scenario, seed and number of the state.
"""

from __future__ import annotations

import errno
from functools import partial
from itertools import count as numbers
from itertools import islice
from typing import TYPE_CHECKING

import pytest

from tests.crash.hunt import drawn, hunt, judged
from tests.crash.machine import INDEX, Machine
from tests.crash.oracle import Verdict, judge
from tests.crash.recorder import CALLS, FOREVER, failing
from tests.crash.replayer import materialise
from tests.crash.scenarios import (
    collected,
    failed,
    failed_while_another_saves,
    gc_beside_a_save,
    killed,
    killed_in_gc,
    killed_in_init,
    plain,
    rotated,
    save_beside_a_gc,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.crash.scenarios import Scenario

SEED = 20_260


def caught(scenario: Scenario, name: str, states: int, memory: Path) -> str | None:
    """A line for the first bad state; None if there is none. Raises StopIteration where the fault was not met."""
    folder = memory / name
    folder.mkdir()
    machine = Machine(folder / "disk", SEED)
    if not scenario(machine):
        raise StopIteration
    found = hunt(machine, states, SEED, folder)
    if found is not None:
        return f"{name}, seed {SEED}, {found}"
    wrong = judge(machine.folder, machine.acknowledged, Verdict(collected=machine.collected))
    return f"{name}, seed {SEED}, power never cut: {wrong}" if wrong else None


@pytest.mark.parametrize(("scenario", "states"), [(plain, 1500), (rotated, 800), (collected, 300)])
def test_saves(scenario: Scenario, states: int, memory: Path, count: Callable[[str, int], None], scale: int) -> None:
    found = caught(scenario, scenario.__name__, states * scale, memory)
    count("crash states replayed", states * scale)
    assert found is None, found


@pytest.mark.parametrize(("scenario", "states"), [(killed, 12), (killed_in_init, 12), (killed_in_gc, 5)])
def test_power_cut_after_a_kill(
    scenario: Callable[[int], Scenario], states: int, memory: Path, count: Callable[[str, int], None], scale: int
) -> None:
    """A process is killed at each of its calls; the power goes later, when others have gone on from there."""
    states *= scale
    for call in numbers(1):
        try:
            found = caught(scenario(call), f"{scenario.__name__}({call})", states, memory)
        except StopIteration:
            break
        count("crash states replayed", states)
        assert found is None, found
    assert call > 30


@pytest.mark.parametrize("scenario", [gc_beside_a_save, save_beside_a_gc])
def test_gc_beside_a_save(scenario: Scenario, memory: Path, count: Callable[[str, int], None], scale: int) -> None:
    states = 60 * scale
    found = caught(scenario, scenario.__name__, states, memory)
    count("crash states replayed", states)
    assert found is None, found


@pytest.mark.parametrize("call", CALLS)
def test_power_cut_after_a_failed_call(call: str, memory: Path, count: Callable[[str, int], None], scale: int) -> None:
    """A call fails once, twice, or from then on; the process saves again; the power goes at any time."""
    states = 6 * scale
    runs = 0
    for times in (1, 2, FOREVER):
        for n in numbers(1):
            error = (errno.EIO, errno.ENOSPC)[n % 2]
            scenario = failed(partial(failing, call, n, error, times))
            try:
                found = caught(scenario, f"{call} {n} {errno.errorcode[error]} {times=}", states, memory)
            except StopIteration:
                break
            runs += 1
            assert found is None, found
    count("crash states replayed", states * runs)
    count("runs with a call that failed in process", runs)
    assert runs


def test_power_cut_after_a_failed_sync_between_writers(
    memory: Path, count: Callable[[str, int], None], scale: int
) -> None:
    """What a process could not sync is followed by it again once another has gone on from there."""
    states = 20 * scale
    for n in numbers(1):
        try:
            found = caught(failed_while_another_saves(n), f"failed_while_another_saves({n})", states, memory)
        except StopIteration:
            break
        count("crash states replayed", states)
        assert found is None, found
    assert n > 8


def test_power_cut_during_recovery(memory: Path, count: Callable[[str, int], None], scale: int) -> None:
    """The power goes a second time while the first save after the first time is under way."""
    first = Machine(memory / "disk", SEED)
    plain(first)
    states = 20
    for number in range(20 * scale):
        state = drawn(first, number, SEED)
        disk = memory / f"disk-{number}"
        materialise(first.log, state, disk, INDEX)
        machine = Machine(disk, SEED + number, dict(state.acknowledged))
        with machine.process() as process:
            process.save(100)
        for again in range(states):
            second = drawn(machine, again, SEED)
            violations = judged(machine, second, memory / f"state-{number}-{again}", state.leaks)
            told = f"plain, seed {SEED}, state {number}, then {again}: {state.described(first.log)}\nthen "
            assert not violations, f"{told}{second.described(machine.log)}\n{violations}"
    count("crash states replayed", 20 * scale * states)


def test_states_differ_and_are_the_same_each_time(memory: Path) -> None:
    """Everything is decided by the seed."""
    runs = []
    for name in ("one", "two"):
        machine = Machine(memory / name, SEED)
        plain(machine)
        runs.append([drawn(machine, number, SEED) for number in range(50)])
    assert runs[0] == runs[1]
    assert len({str(state) for state in islice(runs[0], 50)}) > 40
