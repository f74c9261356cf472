"""Proof that the harness sees: each mutant is caught by a few crash states, and the real code passes the same ones."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest

from ckstore.errors import CkstoreError
from tests.crash.hunt import Catch, hunt
from tests.crash.machine import Machine
from tests.crash.mutants import MUTANTS

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tests.crash.scenarios import Scenario

SEED = 20
STATES = 400


@pytest.mark.parametrize("name", MUTANTS)
def test_caught(name: str, memory: Path, count: Callable[[str, int], None]) -> None:
    mutant = MUTANTS[name]
    caught = _run(mutant.mutate, mutant.scenario, STATES, memory / "mutant")
    assert caught is not None, f"not caught in {STATES} states of seed {SEED}"
    count("mutants caught", 1)
    count("crash states that it took to catch them", caught.number + 1)
    sound = _run(lambda _: nullcontext(), mutant.scenario, caught.number + 1, memory / "sound")
    assert sound is None, f"seed {SEED}, {sound}"


def _run(
    mutate: Callable[[Machine], AbstractContextManager[None]], scenario: Scenario, states: int, folder: Path
) -> Catch | None:
    """Record a run of the mutant, and judge with it what it may leave."""
    folder.mkdir()
    machine = Machine(folder / "disk", SEED)
    with mutate(machine):
        try:
            assert scenario(machine), "the run did not meet its fault"
        except CkstoreError as error:
            return Catch(-1, "the run", [str(error)])
        return hunt(machine, states, SEED, folder)
