"""Few descriptors, little address space, short reads, an index that may not grow: typed errors, and nothing is lost."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import warnings
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from ckstore.errors import CkstoreError, StoreFull
from ckstore.porcelain.init import init
from ckstore.repository import open_repository
from ckstore.storage import environment
from tests.crash.oracle import Verdict, judge
from tests.crash.replaced import replaced
from tests.crash.starved import LABEL
from tests.crash.states import BRANCH, Label, collect, history, read, save, state
from tests.nursery import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GIB = 1 << 30
MAP_SIZE_BYTES = 64 * GIB


@pytest.fixture
def prepared(memory: Path) -> tuple[Path, dict[str, Label]]:
    """A repository with old commits to collect."""
    folder = memory / "template"
    init(folder, BRANCH)
    labels = [Label("chain", seed) for seed in range(4)]
    with open_repository(folder, memory / "cache", threads=1) as repository:
        return folder, {save(repository, label): label for label in labels}


def starved(folder: Path, limit: str, value: int) -> list[dict[str, Any]]:
    """What a child under a limit said of open, save, gc."""
    command = [sys.executable, "-B", "-m", "tests.crash.starved", str(folder), limit, str(value)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert not done.returncode, f"{limit} {value}: {done.stderr}"
    return [json.loads(line) for line in done.stdout.splitlines()]


def _judged(folder: Path, acknowledged: dict[str, Label], said: list[dict[str, Any]]) -> list[str]:
    known = acknowledged | {line["id"]: LABEL for line in said if "id" in line}
    gone_wrong = [f"{line}" for line in said if "Integrity" in line.get("error", "") and line["do"] != "open"]
    return gone_wrong + judge(folder, known, Verdict(collected=True))


def test_few_descriptors(prepared: tuple[Path, dict[str, Label]], count: Callable[[str, int], None]) -> None:
    """From hardly any to enough: each step fails with a typed error or succeeds."""
    template, acknowledged = prepared
    folder = template.with_name("repo")
    failures = 0
    for limit in range(3, 40):
        shutil.copytree(template, folder)
        said = starved(folder, "RLIMIT_NOFILE", limit)
        assert _judged(folder, acknowledged, said) == [], f"{limit} descriptors: {said}"
        shutil.rmtree(folder)
        failures += sum("error" in line for line in said)
        if len(said) == 3 and not any("error" in line for line in said):
            break
    else:
        pytest.fail("never enough")
    count("saves and gcs with few descriptors", limit - 2)
    assert failures > 5


def test_little_address_space(
    prepared: tuple[Path, dict[str, Label]], count: Callable[[str, int], None], scale: int
) -> None:
    """Less than LMDB maps: opening fails, says so, and leaves the index. A little more: some step may fail."""
    template, acknowledged = prepared
    folder = template.with_name("repo")
    shutil.copytree(template, folder)
    index = folder / ".ckstore" / "index" / "data.mdb"
    before = index.stat().st_ino
    (opened,) = starved(folder, "RLIMIT_AS", 8 * GIB)
    assert opened["error"] == "SaveFailed"
    assert "address space" in opened["hint"]
    assert index.stat().st_ino == before
    shutil.rmtree(folder)
    spare = [*range(0, 4 << 20, (1 << 20) // scale), 16 << 20, 256 << 20]
    outcomes = set()
    for bytes_more in spare:
        shutil.copytree(template, folder)
        said = starved(folder, "RLIMIT_AS", MAP_SIZE_BYTES + bytes_more)
        assert _judged(folder, acknowledged, said) == [], f"{bytes_more} bytes more than the map: {said}"
        shutil.rmtree(folder)
        outcomes |= {line.get("error") for line in said}
    count("saves and gcs with little address space", len(spare) + 1)
    assert None in outcomes
    assert len(outcomes) > 1


@pytest.mark.parametrize("seed", range(3))
def test_short_reads(seed: int, memory: Path, count: Callable[[str, int], None]) -> None:
    """The kernel may give only a part of what was asked for: all is as if it had given it all."""
    rng = random.Random(seed)
    pread, preadv, calls = os.pread, os.preadv, [0]

    def less(length: int) -> int:
        calls[0] += 1
        return rng.randint(1, length) if length > 1 and rng.random() < 0.7 else length

    def short_pread(descriptor: int, length: int, offset: int) -> bytes:
        return pread(descriptor, less(length), offset)

    def short_preadv(descriptor: int, targets: list[memoryview], offset: int) -> int:
        taken = [memoryview(target) for target in targets]
        return preadv(descriptor, [taken[0][: less(taken[0].nbytes)]], offset)

    folder = memory / "repo"
    init(folder, BRANCH)
    acknowledged: dict[str, Label] = {}
    with replaced(os, "pread", short_pread), replaced(os, "preadv", short_preadv):
        for first in (0, 5):
            with open_repository(folder, memory / "cache", threads=1) as repository:
                for number in range(first, first + 5):
                    label = Label(("chain", "small")[number % 2], number)
                    acknowledged[save(repository, label)] = label
                for id, commit in history(repository)[:5]:
                    assert read(repository, commit) == state(acknowledged[id])
        assert judge(folder, acknowledged) == []
        with open_repository(folder, memory / "cache", threads=1) as repository:
            collect(repository)
        assert judge(folder, acknowledged, Verdict(collected=True)) == []
    count("short reads", calls[0])
    assert calls[0] > 100


def test_an_index_that_may_not_grow(memory: Path, count: Callable[[str, int], None]) -> None:
    """MapFull at any page: a typed error or a warning, and with the usual size all is there."""
    warned = failed = sizes = 0
    for pages in range(16, 96, 8):
        folder = memory / str(pages)
        init(folder, BRANCH)
        acknowledged: dict[str, Label] = {}
        with ExitStack() as stack:
            stack.enter_context(replaced(environment, "MAP_SIZE", pages * 4096))
            said = stack.enter_context(warnings.catch_warnings(record=True))
            warnings.simplefilter("always")
            try:
                repository = stack.enter_context(open_repository(folder, memory / "cache", threads=1))
                for number in range(24):
                    label = Label("small", 2 * number)
                    acknowledged[save(repository, label)] = label
            except StoreFull:
                failed += 1
            except CkstoreError as error:
                pytest.fail(f"{pages} pages: {type(error).__name__}: {error}")
            warned += len(said)
        assert judge(folder, acknowledged) == [], f"{pages} pages, {len(acknowledged)} commits"
        sizes += 1
    count("indexes that may not grow", sizes)
    assert warned or failed
