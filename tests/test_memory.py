"""Saving and loading need little memory besides the state itself. Measured in processes of their own (Linux)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ckstore.codec.room import Room

MIB = 1 << 20
STATE_BYTES = 300 * MIB

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux's /proc")

COMMON = """
import json, sys
import torch
import ckstore

MIB = 1 << 20

def status(name):
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))

def extra(work):
    '''Bytes by which the peak of `work` is above what was resident before.'''
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
    before = status("VmRSS")
    kept = work()
    return status("VmHWM") - before

def make():
    torch.manual_seed(0)
    weights = {f"layer{n}": torch.randn(4, MIB) for n in range(15)}  # 240 MiB
    packed = {f"half{n}": torch.randn(4 * MIB).to(torch.bfloat16) for n in range(7)}  # 56 MiB
    small = {n: {"step": torch.tensor(float(n)), "m": torch.randn(1024)} for n in range(1000)}  # 4 MiB
    return {"model": {**weights, **packed}, "optimizer": small}

repo = ckstore.open(sys.argv[1])
"""


def measured(folder: Path, code: str) -> dict[str, int]:
    """What the code prints as JSON. Large tensors that it lets go of are given back at once: how many of them glibc
    would keep in its heap is chance.
    """
    command = [sys.executable, "-c", COMMON + code, str(folder)]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(4 << 20)}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, int] = json.loads(ran.stdout)
    return found


@pytest.fixture(scope="module")
def commits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """A repository with two commits of a state, the second against the first, and what making them took."""
    folder = tmp_path_factory.mktemp("repo")
    code = """
state = make()
first = extra(lambda: repo.commit(state))
for value in state["model"].values():
    value.mul_(1.001)
second = extra(lambda: repo.commit(state))
print(json.dumps({"first": first, "second": second}))
"""
    return folder, measured(folder, code)


@pytest.mark.parametrize("which", ["first", "second"])
def test_a_commit(commits: tuple[Path, dict[str, int]], which: str) -> None:
    _, found = commits
    assert found[which] < 128 * MIB


def test_a_commit_of_many_components(tmp_path: Path) -> None:
    """Each is too small for a pack of its own: they share a few, and are not kept in memory until the end."""
    code = """
from pathlib import Path
torch.manual_seed(0)
state = {f"w{n}": torch.randn(250, 1000) for n in range(300)}  # 286 MiB
taken = extra(lambda: repo.commit(state))
back = repo["HEAD"].load()
assert all(torch.equal(back[name], one) for name, one in state.items()) and len(back) == 300
packs = len(list((Path(sys.argv[1]) / ".ckstore/packs").iterdir()))
print(json.dumps({"commit": taken, "packs": packs}))
"""
    found = measured(tmp_path / "repo", code)
    assert found["commit"] < 64 * MIB
    assert 2 <= found["packs"] < 10


def test_a_load(commits: tuple[Path, dict[str, int]]) -> None:
    folder, _ = commits
    found = measured(folder, 'print(json.dumps({"load": extra(lambda: repo["HEAD"].load())}))')
    assert STATE_BYTES - 8 * MIB < found["load"] < STATE_BYTES + 64 * MIB


def test_a_slice(commits: tuple[Path, dict[str, int]]) -> None:
    folder, _ = commits
    code = """
weight = repo["HEAD"]["model"]["layer3"]
print(json.dumps({"slice": extra(lambda: weight[1, :1000])}))
"""
    assert measured(folder, code)["slice"] < 32 * MIB


def test_a_check(commits: tuple[Path, dict[str, int]]) -> None:
    folder, _ = commits
    code = """
def check():
    assert repo.verify(read_data=True).ok
print(json.dumps({"verify": extra(check)}))
"""
    assert measured(folder, code)["verify"] < 64 * MIB


def test_a_validation(commits: tuple[Path, dict[str, int]]) -> None:
    folder, _ = commits
    code = """
def check():
    found = repo.validate(against="HEAD~1")
    assert found.tensors == 2022 and {one.check for one in found.findings} == {"missing"}
print(json.dumps({"validate": extra(check)}))
"""
    assert measured(folder, code)["validate"] < 64 * MIB


def test_a_forked_child_has_work_buffers_of_its_own() -> None:
    room = Room()
    buffer = room.take(4 * MIB)
    buffer[:4] = b"ours"
    child = os.fork()
    if not child:
        room.take(4 * MIB)[:4] = b"work"
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert bytes(buffer[:4]) == b"ours"
