"""The clock jumps by ten years, files get odd times: saves, recovery, gc and loads do not care.

What gc keeps `within` some time does, and refuses (tests/test_gc.py).
"""

from __future__ import annotations

import os
import shutil
import time
from typing import TYPE_CHECKING

import pytest

import ckstore
from ckstore.porcelain.init import init
from ckstore.repository import open_repository
from ckstore.storage.layout import FOLDER
from tests.crash.oracle import Verdict, judge
from tests.crash.replaced import replaced
from tests.crash.states import BRANCH, Label, collect, save

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TEN_YEARS_S = 315_576_000
JUMPS = {"back": (-TEN_YEARS_S,), "forth": (TEN_YEARS_S,), "both ways": (TEN_YEARS_S, -TEN_YEARS_S, 0)}


def _stamp(folder: Path, seconds: float) -> None:
    """All files and folders were last changed then."""
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (seconds, seconds))


@pytest.mark.parametrize("jumps", JUMPS)
@pytest.mark.parametrize("collected", [False, True], ids=["saves", "gc"])
def test_a_clock_that_jumps(jumps: str, collected: bool, memory: Path, count: Callable[[str, int], None]) -> None:
    """Between saves, and between a crash and the recovery: the index is lost, the journal's end torn."""
    folder = memory / "repo"
    init(folder, BRANCH)
    acknowledged: dict[str, Label] = {}
    real, real_ns = time.time, time.time_ns
    with open_repository(folder, memory / "cache", threads=1) as repository:
        for seed in range(3):
            acknowledged[save(repository, Label("chain", seed))] = Label("chain", seed)
    for number, jump in enumerate(JUMPS[jumps], 1):
        with (
            replaced(time, "time", lambda jump=jump: real() + jump),
            replaced(time, "time_ns", lambda jump=jump: real_ns() + jump * 10**9),
        ):
            _stamp(folder / FOLDER, time.time())
            if number % 2:
                shutil.rmtree(folder / FOLDER / "index")
            newest = max((folder / FOLDER / "journal").iterdir())
            with newest.open("ab") as file:
                file.write(bytes(100))  # torn
            with open_repository(folder, memory / "cache", threads=1) as repository:
                for seed in range(10 * number, 10 * number + 3):
                    acknowledged[save(repository, Label("chain", seed))] = Label("chain", seed)
                if collected:
                    collect(repository)
                    acknowledged[save(repository, Label("small", seed))] = Label("small", seed)
        count("saves after the clock jumped ten years", 3 + collected)
    assert judge(folder, acknowledged, Verdict(collected=collected)) == []


def test_ckstore_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: Callable[[str, int], None]) -> None:
    """Commits that seem to come before their parents are there, in order of the graph."""
    now = time.time()
    ids = []
    with ckstore.open(tmp_path / "repo", cache=tmp_path / "cache") as repo:
        for number, jump in enumerate((0, TEN_YEARS_S, -TEN_YEARS_S, 0)):
            monkeypatch.setenv("CKSTORE_NOW", str(now + jump))
            ids.append(repo.commit({"number": number, "data": [number] * 100}, message="m").id)
        assert [one.id for one in repo.log()] == ids[::-1]
        assert [repo[id]["number"] for id in ids] == [0, 1, 2, 3]
        assert not repo.verify(read_data=True).findings
    count("saves after the clock jumped ten years", len(ids))
