"""The core's figures, side by side in one run: `python benchmarks/bench_core.py [--json FILE] [--folder DIR]`.

Unchanged state: a commit of 1.2 GB that is stored already, against BLAKE3 over the same chunks on as many threads.
Many tensors: a first commit of 10,000 tensors of 1 KiB, against torch.save + fsync of the same dictionary.
Checkout: peak memory of loading a state, beyond the state itself.
Commands: `ckstore --help` and `ckstore log`, as whole processes.
Runs alternate; medians are printed with the ratio of medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from blake3 import blake3

import ckstore
from ckstore.torch.tensors import host_view

if TYPE_CHECKING:
    from collections.abc import Callable

RUNS = 7
CHUNK = 1 << 20


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def alternate(*works: Callable[[], object], runs: int = RUNS) -> list[float]:
    """Median wall time of each, run in turn after one warm-up."""
    for work in works:
        work()
    times = [[seconds(work) for work in works] for _ in range(runs)]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def hash_all(tensors: list[torch.Tensor], threads: int) -> None:
    """BLAKE3 of every chunk of the tensors on `threads` threads."""
    views = [host_view(t.untyped_storage(), 0, t.untyped_storage().nbytes()) for t in tensors]
    chunks = [view[start : start + CHUNK] for view in views for start in range(0, view.nbytes, CHUNK)]
    runs = [chunks[start : start + 8] for start in range(0, len(chunks), 8)]

    def work(run: list[memoryview]) -> None:
        for chunk in run:
            blake3(chunk).digest()

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, runs))


def unchanged(folder: Path, threads: int) -> dict[str, float]:
    """A commit of 1.2 GB that the repository holds already."""
    state = {f"layer{n}": torch.randn(25 << 20) for n in range(12)}
    with ckstore.open(folder / "unchanged", threads=threads) as repo:
        repo.commit({"model": state})
        added: list[int] = []

        def commit() -> None:
            before = disk_bytes(folder / "unchanged")
            repo.commit({"model": state})
            added.append(disk_bytes(folder / "unchanged") - before)

        hashing, committing = alternate(lambda: hash_all(list(state.values()), threads), commit)
    size = 12 * (25 << 20) * 4
    return {
        "raw_bytes": size,
        "threads": threads,
        "blake3_s": hashing,
        "commit_s": committing,
        "share_of_blake3_speed": hashing / committing,
        "added_bytes": statistics.median(added),
    }


def many_tensors(folder: Path) -> dict[str, float]:
    """A first commit of 10,000 tensors of 1 KiB; each run has new values."""
    state = {f"layer{n}.weight": torch.randn(256) for n in range(10_000)}

    def renew() -> None:
        for tensor in state.values():
            tensor.add_(1)

    def save() -> None:
        with (folder / "many.pt").open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())

    with ckstore.open(folder / "many") as repo:
        saving, committing = [], []
        for _ in range(RUNS + 1):
            renew()
            saving.append(seconds(save))
            committing.append(seconds(lambda: repo.commit({"model": state})))
    save_s, commit_s = statistics.median(saving[1:]), statistics.median(committing[1:])
    return {"torch_save_fsync_s": save_s, "commit_s": commit_s, "ratio": commit_s / save_s}


def commands(folder: Path) -> dict[str, float]:
    """`ckstore --help` and `ckstore log -n 20` on a repository of 1,000 commits, beside a bare interpreter."""
    with ckstore.open(folder / "commits") as repo:
        for step in range(1000):
            repo.commit({"step": step}, step=step, metrics={"loss": 1 / (step + 1)})
    entry = [sys.executable, "-c", "from ckstore.cli.main import run; run()"]

    def call(*arguments: str) -> Callable[[], object]:
        return lambda: subprocess.run(arguments, stdout=subprocess.DEVNULL, check=True)

    bare, help_s, log_s, status_s, list_s = alternate(
        call(sys.executable, "-c", "pass"),
        call(*entry, "--help"),
        call(*entry, "-C", str(folder / "commits"), "log", "-n", "20"),
        call(*entry, "-C", str(folder / "commits"), "status"),
        call(*entry, "-C", str(folder / "commits"), "list"),
    )
    return {"python_s": bare, "help_s": help_s, "log_s": log_s, "status_s": status_s, "list_s": list_s}


_PEAK = """
import json, pathlib, sys, ckstore
def peak():
    text = pathlib.Path("/proc/self/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) * 1024
repo = ckstore.open(sys.argv[1])
repo["small"].load()
pathlib.Path("/proc/self/clear_refs").write_text("5")
before = peak()
state = repo["main"].load()
size = sum(tensor.untyped_storage().nbytes() for tensor in state["model"].values())
print(json.dumps({"state_bytes": size, "extra_bytes": peak() - before - size}))
"""


def checkout(folder: Path) -> dict[str, float]:
    """Peak memory of loading 630 MB beyond the state itself, in a process of its own."""
    with ckstore.open(folder / "checkout") as repo:
        repo.commit({"model": {"w": torch.zeros(10)}}, branch="small")
        repo.commit({"model": {f"layer{n}": torch.randn(25 << 20) for n in range(6)}})
    ran = subprocess.run(
        [sys.executable, "-c", _PEAK, str(folder / "checkout")], capture_output=True, text=True, check=True
    )
    measured: dict[str, float] = json.loads(ran.stdout)
    return measured


def disk_bytes(folder: Path) -> int:
    """Bytes of packs and journal: the truth, without the index."""
    return sum(path.stat().st_size for path in (folder / ".ckstore").rglob("*") if path.suffix in (".pack", ".journal"))


def main() -> None:
    """Run everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as scratch:
        folder = Path(scratch)
        figures = {
            "unchanged, 1 thread": unchanged(folder / "one", 1),
            "unchanged, 2 threads": unchanged(folder / "two", 2),
            "10,000 tensors of 1 KiB": many_tensors(folder),
            "checkout": checkout(folder),
            "commands": commands(folder),
        }
    for name, values in figures.items():
        print(name)
        for key, value in values.items():
            print(f"  {key:24} {value:,.3f}" if isinstance(value, float) else f"  {key:24} {value:,}")
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
