"""The kernel may take only a part of a write: the rest follows, and nothing is seen of it."""

from __future__ import annotations

from functools import partial
from itertools import count as numbers
from typing import TYPE_CHECKING

import pytest

from tests.crash.machine import Machine
from tests.crash.oracle import judge
from tests.crash.recorder import FOREVER, shortening
from tests.crash.scenarios import failed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize("times", [1, FOREVER])
def test_every_write(times: int, memory: Path, count: Callable[[str, int], None]) -> None:
    """The saves all succeed: none of them is missing, and what they wrote is whole."""
    for n in numbers(1):
        machine = Machine(memory / str(n), n)
        if not failed(partial(shortening, n, times))(machine):
            break
        assert len(machine.acknowledged) == 5, f"write {n} {times=}"
        assert judge(machine.folder, machine.acknowledged) == [], f"write {n} {times=}"
    count("short writes", n - 1)
    assert n > 20
