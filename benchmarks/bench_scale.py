"""What long histories cost, in one run: `python benchmarks/bench_scale.py [--json FILE] [--folder DIR]`.

Histories of 100 and of 10,000 commits (10^6 chunks in 20,000 packs) as histories.py writes them.
Commands: `status`, `log -n 20` and a filtered, sorted `list` as whole processes, beside `--help`.
Commit: one changed tensor of sixteen, in a copy of each history; the two take turns.
Open: time and memory of opening, sizes of journal and index.
Mark: gc's inventory and mark at 10^6 chunks, with their memory; the whole plan for a policy.
Beside gc: a process that commits all the time, with and without `gc --repack` under way in another.
Medians, but for memory, which is the most of all runs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from bench_core import alternate, seconds
from histories import LONG, SHORT, history

import ckstore

KEEP = "last=3 every=1000"
_ENTRY = [sys.executable, "-c", "from ckstore.cli.main import run; run()"]
_RUNS = 5
_ROUNDS = 60
_CALM = 100
_TENSORS = 16
_CHANGED = 1 << 18

_MEASURED = """
import json, pathlib, sys, time
from ckstore.repository import open_repository
def memory(name):
    return int(pathlib.Path("/proc/self/status").read_text().split(name + ":")[1].split()[0]) * 1024
def measured(work):
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    resident, began = memory("VmRSS"), time.perf_counter()
    kept = work()
    return kept, time.perf_counter() - began, memory("VmHWM") - resident
folder, cache = pathlib.Path(sys.argv[1]), pathlib.Path("/nowhere")
"""

_OPEN = """
open_repository(pathlib.Path(sys.argv[2]), cache).close()
repository, took, extra = measured(lambda: open_repository(folder, cache))
store = repository.store
sizes = {"journal_bytes": store.journal_bytes, "index_bytes": store.index_bytes}
print(json.dumps({"open_s": took, "open_extra_bytes": extra, **sizes}))
"""

_MARK = """
import numpy
from ckstore.checkpoint.live import mark
from ckstore.porcelain.gc import GcOptions, plan_gc
from ckstore.graph.history import ancestry
from ckstore.storage.inventory import take_inventory
repository = open_repository(folder, cache)
commits = repository.commits()
known = dict(ancestry(commits.refs.values(), commits.read_commit))
def work():
    began = time.perf_counter()
    inventory = take_inventory(repository.store)
    between = time.perf_counter()
    live = mark(repository, inventory, known, frozenset(commits.branches.values()), lambda id, name: False)
    return inventory, live, between - began, time.perf_counter() - between
(inventory, live, inventory_s, mark_s), took, extra = measured(work)
found = {"frames": len(inventory), "packs": len(inventory.packs), "inventory_s": inventory_s, "mark_s": mark_s}
assert live.marked.all()
del inventory, live
options = GcOptions(time.time_ns(), {"": sys.argv[2]})
plan, plan_s, plan_extra = measured(lambda: plan_gc(repository, options))
found |= {"both_s": took, "both_extra_bytes": extra, "plan_s": plan_s, "plan_extra_bytes": plan_extra}
print(json.dumps({**found, "plan_drops": len(plan.dropped)}))
"""


def run(script: str, *arguments: str) -> dict[str, float]:
    """What a script in a process of its own says of itself."""
    ran = subprocess.run([sys.executable, "-c", _MEASURED + script, *arguments], stdout=subprocess.PIPE, check=True)
    said: dict[str, float] = json.loads(ran.stdout)
    return said


def typical(runs: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure, the most of memory."""
    middle = {key: statistics.median(one[key] for one in runs) for key in runs[0]}
    return middle | {key: max(one[key] for one in runs) for key in middle if key.endswith("extra_bytes")}


def commands(folder: Path) -> dict[str, float]:
    """Whole processes."""

    def call(*arguments: str) -> float:
        return seconds(lambda: subprocess.run([*_ENTRY, *arguments], stdout=subprocess.DEVNULL, check=True))

    asked = {
        "help_s": ["--help"],
        "status_s": ["status"],
        "log_s": ["log", "-n", "20"],
        "list_s": ["list", "--where", f"step>{LONG * 9}", "--sort", "val/loss"],
        "best_s": ["show", "best:val/loss:min"],
        "reflog_s": ["reflog", "-n", "20"],
    }
    works = [lambda words=words: call("-C", str(folder), *words) for words in asked.values()]
    return dict(zip(asked, alternate(*works, runs=_RUNS), strict=True))


class Committing:
    """A state of 16 MiB in an open repository, of which one tensor changes before each commit."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        self._repo = ckstore.open(folder, threads=1)
        self._state = {f"layer{n}": torch.randn(_CHANGED) for n in range(_TENSORS)}
        self._step = 0
        self.commit()

    def commit(self) -> float:
        """Seconds that it took."""
        self._step += 1
        self._state["layer0"] = torch.randn(_CHANGED)
        return seconds(lambda: self._repo.commit({"model": self._state}, step=LONG * 10 + self._step))

    def close(self) -> None:
        """Let go of the repository."""
        self._repo.close()


def commits(folders: list[Path]) -> dict[str, float]:
    """One changed tensor, in each of the folders in turn."""
    savers = [Committing(folder) for folder in folders]
    times = [[saver.commit() for saver in savers] for _ in range(_ROUNDS)]
    for saver in savers:
        saver.close()
    short, long = (statistics.median(column) for column in zip(*times, strict=True))
    return {"short_s": short, "long_s": long, "ratio": long / short}


def beside_gc(folder: Path) -> dict[str, float]:
    """Commits of one process while another makes room: those before, and those begun while it ran."""
    saver = Committing(folder)
    calm = [saver.commit() for _ in range(_CALM)]
    began = time.perf_counter()
    gc = subprocess.Popen([*_ENTRY, "-C", str(folder), "gc", "--keep", KEEP, "--repack", "--grace", "0"],
                          stdout=subprocess.DEVNULL)  # fmt: skip
    held = []
    while gc.poll() is None:
        held.append(saver.commit())
    if gc.returncode:
        raise SystemExit("gc failed")
    gc_s = time.perf_counter() - began
    saver.close()
    middle, middle_held = statistics.median(calm), statistics.median(held)
    return {
        "gc_s": gc_s,
        "commits_meanwhile": len(held),
        "calm_s": middle,
        "calm_worst_s": max(calm),
        "held_s": middle_held,
        "held_worst_s": max(held),
        "longer_s": middle_held - middle,
    }


def main() -> None:
    """Run everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    asked = parser.parse_args()
    short, long = history(SHORT), history(LONG)
    figures = {
        "commands": commands(long),
        "open": typical([run(_OPEN, str(long), str(short)) for _ in range(_RUNS)]),
        "mark": typical([run(_MARK, str(long), KEEP) for _ in range(_RUNS)]),
    }
    with tempfile.TemporaryDirectory(dir=asked.folder) as scratch:
        copies = [Path(shutil.copytree(folder, Path(scratch) / folder.name)) for folder in (short, long)]
        figures["commit"] = commits(copies)
        figures["beside gc"] = beside_gc(copies[1])
        figures["after gc"] = commands(copies[1])
    for name, values in figures.items():
        print(name)
        for key, value in values.items():
            print(f"  {key:24} {value:,.3f}" if isinstance(value, float) else f"  {key:24} {value:,}")
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
