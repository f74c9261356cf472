"""Comparing checkpoints: `python benchmarks/bench_diff.py [--json FILE] [--folder DIR]`.

Two states of 1.2 GB in fp32, the second a step of training away: diff with and without figures, and show with figures,
beside reading both states (`load`), from a warm page cache. And two states of 20,000 small tensors. Runs alternate;
medians are printed, with the ratio to the time both loads take. Memory: what a diff takes beyond what was there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

import ckstore
from ckstore.porcelain.diff import DiffOptions, diff
from ckstore.porcelain.show import ShowOptions, show

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckstore.repository import Repository

RUNS = 5
LAYERS = 12
LAYER = 25 << 20
SMALL = 20_000

Figures = dict[str, float]


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call; what it gave is let go within it."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def alternate(*works: Callable[[], object]) -> list[float]:
    """Median wall time of each, run in turn after one warm-up."""
    for work in works:
        work()
    times = [[seconds(work) for work in works] for _ in range(RUNS)]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def large() -> dict[str, torch.Tensor]:
    return {f"layer{n}": torch.randn(LAYER) * 0.02 for n in range(LAYERS)}


def small() -> dict[str, torch.Tensor]:
    return {f"layer{n}.bias": torch.randn(512) for n in range(SMALL)}


def trained(state: dict[str, torch.Tensor]) -> None:
    """A small step for every weight."""
    for tensor in state.values():
        tensor.add_(torch.randn_like(tensor), alpha=1e-4)


def times(folder: Path, make: Callable[[], dict[str, torch.Tensor]], preset: str, threads: int) -> Figures:
    """What comparing two states of one kind takes."""
    torch.manual_seed(0)
    with ckstore.open(folder, threads=threads, preset=preset) as repo:
        state = make()
        size = sum(tensor.nbytes for tensor in state.values())
        repo.commit({"model": state})
        trained(state)
        repo.commit({"model": state})
        del state

        def load() -> None:
            for revision in ("HEAD~1", "HEAD"):
                repo[revision].load()

        def compare(repository: Repository, *, stat: bool) -> None:
            assert len(diff(repository, "HEAD~1", "HEAD", DiffOptions(0, stat=stat)).components[0].changed) > 0

        load_s, diff_s, quick_s, show_s = alternate(
            load,
            lambda: compare(repo._repository, stat=True),
            lambda: compare(repo._repository, stat=False),
            lambda: show(repo._repository, "HEAD", ShowOptions(0, stat=True)),
        )
    return {
        "raw_bytes": size,
        "threads": threads,
        "load_both_s": load_s,
        "diff_stat_s": diff_s,
        "diff_stat_ratio": diff_s / load_s,
        "diff_s": quick_s,
        "show_stat_s": show_s,
    }


_PEAK = """
import json, pathlib, sys, threading, time
import ckstore
from ckstore.porcelain.diff import DiffOptions, diff

def anonymous():
    text = pathlib.Path("/proc/self/status").read_text()
    return int(text.split("RssAnon:")[1].split()[0]) * 1024

peak, watching = 0, True

def watch():
    global peak
    while watching:
        peak = max(peak, anonymous())
        time.sleep(0.002)

repo = ckstore.open(sys.argv[1], create=False)
before = anonymous()
thread = threading.Thread(target=watch, daemon=True)
thread.start()
diff(repo._repository, "HEAD~1", "HEAD", DiffOptions(0, stat=True))
watching = False
thread.join()
print(json.dumps({"extra_bytes": peak - before}))
"""


def memory(folder: Path) -> Figures:
    """Anonymous memory of a diff with figures, in a process of its own that has loaded nothing before."""
    ran = subprocess.run([sys.executable, "-c", _PEAK, str(folder)], capture_output=True, text=True, check=True)
    measured: Figures = json.loads(ran.stdout)
    return measured


def main() -> None:
    """Run everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    figures: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory(dir=asked.folder) as scratch:
        for preset in ("balanced", "fast"):
            folder = Path(scratch, preset)
            figures[f"1.2 GB fp32, {preset}"] = times(folder, large, preset, asked.threads) | memory(folder)
        figures[f"{SMALL:,} tensors of 2 KiB"] = times(Path(scratch, "small"), small, "balanced", asked.threads)
    for name, values in figures.items():
        print(name)
        for key, value in values.items():
            print(f"  {key:24} {value:,.3f}" if isinstance(value, float) else f"  {key:24} {value:,}")
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
