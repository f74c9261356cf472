"""The hunt through the crash states that a recorded run may leave."""

from __future__ import annotations

import random
import shutil
from typing import TYPE_CHECKING, NamedTuple

from tests.crash.machine import INDEX, REPOSITORY
from tests.crash.operations import synced_again
from tests.crash.oracle import Verdict, judge
from tests.crash.replayer import crash_state, materialise

if TYPE_CHECKING:
    from pathlib import Path

    from tests.crash.machine import Machine
    from tests.crash.replayer import CrashState


class Catch(NamedTuple):
    """A crash state that breaks the contract: its number (-1: the run itself does), what it is, what is wrong."""

    number: int
    state: str
    violations: list[str]

    def __str__(self) -> str:
        return "\n".join([f"state {self.number}: {self.state}", *self.violations])


def hunt(machine: Machine, states: int, seed: int, scratch: Path) -> Catch | None:
    """The first of `states` crash states of a run that breaks the contract, or the run itself if it did."""
    wrong = synced_again(machine.log)
    if wrong:
        return Catch(-1, "the run", wrong)
    for number in range(states):
        state = drawn(machine, number, seed)
        violations = judged(machine, state, scratch / f"state-{number}")
        if violations:
            return Catch(number, state.described(machine.log), violations)
    return None


def drawn(machine: Machine, number: int, seed: int) -> CrashState:
    """Crash state `number` of a run. The first ones are of the end, where most is acknowledged."""
    rng = random.Random(f"{seed} {number}")
    length = len(machine.log.operations)
    prefix = length if number == 0 else rng.randint(machine.beginning, length)
    return crash_state(machine.log, prefix, rng)


def judged(machine: Machine, state: CrashState, disk: Path, leaks: frozenset[str] = frozenset()) -> list[str]:
    """What is wrong with a crash state, which is written to `disk` and removed again."""
    materialise(machine.log, state, disk, INDEX)
    verdict = Verdict(leaks=leaks | state.leaks, collected=machine.collected)
    violations = judge(disk / REPOSITORY, state.acknowledged, verdict)
    shutil.rmtree(disk)
    return violations
