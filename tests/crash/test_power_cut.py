"""Power cuts on a real ext4 (W1 to W5): see power.py, which each test starts as a process of its own.

A failure prints the command that repeats its run. Mutants show that such cuts see what a missing sync loses: of a
folder only where the file system has no journal.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.crash import ext4
from tests.crash.power import CANNOT, SCENARIOS
from tests.nursery import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SEED = 1
CUTS = 60
CUTS_WITHOUT_JOURNAL = 12
CUTS_FOR_A_MUTANT = 120

WITHOUT = ("--without-journal",)

MUTANTS: dict[str, tuple[str, ...]] = {
    "W2: packs are not synced": (),
    "W3: packs/ is not synced": WITHOUT,
    "W3 and W4 swapped: the record before the rename": (),
    "W4: the journal is not synced": (),
    "W4: acknowledged before it": (),
    "W5: the index before the journal": (),
}


def power(memory: Path, scenario: str, *arguments: object) -> list[dict[str, Any]]:
    """The runs that power.py makes of a scenario; skips where power cannot be cut."""
    command = [sys.executable, "-B", "-m", "tests.crash.power", scenario, "--seed", SEED, "--scratch", memory]
    done = subprocess.run(
        [str(word) for word in (*command, *arguments)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode == CANNOT:
        pytest.skip(done.stderr.strip())
    runs = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == any(run["violations"] for run in runs), done.stderr
    return runs


def broken(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [run for run in runs if run["violations"]]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_power_cut(scenario: str, memory: Path, count: Callable[[str, int], None], scale: int) -> None:
    runs = power(memory, scenario, "--cuts", CUTS * scale)
    without = power(memory, scenario, "--cuts", CUTS_WITHOUT_JOURNAL * scale, *WITHOUT)
    count("power cuts on ext4", sum(len(run["cuts"]) for run in runs))
    count("power cuts on ext4 without a journal", sum(len(run["cuts"]) for run in without))
    runs += without
    count("commits acknowledged before a power cut on ext4", sum(run["acknowledged"] for run in runs))
    wrong = broken(runs)
    assert not wrong, "\n".join(f"{run['again']}\n{run['cuts']} at {run['at']}: {run['violations']}" for run in wrong)
    assert sum(run["acknowledged"] for run in runs)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutant_loses(mutant: str, memory: Path, count: Callable[[str, int], None]) -> None:
    runs = power(
        memory, "two saves", "--mutant", mutant, "--cuts", CUTS_FOR_A_MUTANT, "--first-catch", *MUTANTS[mutant]
    )
    caught = broken(runs)
    assert caught, f"not caught by {CUTS_FOR_A_MUTANT} power cuts of seed {SEED}"
    count("mutants caught by power cuts on ext4", 1)
    count("power cuts that it took to catch them", sum(len(run["cuts"]) for run in runs))
    sound = power(memory, "two saves", "--first", caught[0]["number"], *MUTANTS[mutant])
    assert not broken(sound), f"{sound[0]['again']} is caught without the mutant too: {sound}"


def test_a_cut_loses_and_tears(memory: Path) -> None:
    """What was synced is whole; what was not is gone, or is there in part where pages of it were written back."""
    why = ext4.missing()
    if why is not None:
        pytest.skip(why)
    data = bytes(range(1, 256)) * 2048
    left = set()
    for seed in range(12):
        ext4.make(memory / "image")
        try:
            with ext4.mounted(memory / "image", memory / "disk") as disk:
                for name in ("synced", "unsynced"):
                    with (disk / name).open("wb", buffering=0) as file:
                        file.write(data)
                        if name == "synced":
                            os.fsync(file.fileno())
                ext4.write_back_some(disk, random.Random(seed))
                ext4.cut_power(disk, flushed=seed % 2 == 0)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"cannot mount: {error.stderr}")
        with ext4.mounted(memory / "image", memory / "disk") as disk:
            assert (disk / "synced").read_bytes() == data
            path = disk / "unsynced"
            found = path.read_bytes() if path.exists() else None
            left.add("absent" if found is None else "whole" if found == data else "torn" if any(found) else "empty")
    assert {"absent", "torn"} <= left, left
