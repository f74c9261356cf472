"""Checkpoint files, in and out: `python benchmarks/bench_files.py [--only NAME...] [--json FILE]`.

Speed: a 2 GB file of new dense numbers and the same file once more, beside BLAKE3 on as many threads over the same
mapping, and the anonymous memory that takes; writing it back, beside cp + fsync. Formats: what a `.pt`, a
`.safetensors` and a legacy file of one model share. Scan: its estimate for each trajectory of workloads.py, whole and
from a quarter, beside what the same files then take as commits one after another.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from workloads import NAMES, trajectory

import ckstore
from ckstore.porcelain.scan import ScanOptions, scan

THREADS = 2
ROUNDS = 3
LAYERS = 30
WARM_BYTES = 3 << 30

Figures = dict[str, Any]

_COMMIT = """
import json, mmap, os, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from blake3 import blake3
import ckstore

path, folder, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
peak, watching = 0, True

def watch():
    global peak
    while watching:
        with open("/proc/self/status") as status:
            peak = max(peak, next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon")))
        time.sleep(0.002)

def hashing():
    with open(path, "rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        def work(start):
            for at in range(start, min(start + (8 << 20), len(data)), 1 << 20):
                blake3(data[at : at + (1 << 20)]).digest()
        began = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, range(0, len(data), 8 << 20)))
        return time.perf_counter() - began

def committing(repo):
    began = time.perf_counter()
    repo.commit_files(path)
    return time.perf_counter() - began

with ckstore.open(folder, threads=threads) as repo:
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    first = committing(repo)
    known, hashed = [], []
    for _ in range(5):
        known.append(committing(repo))
        hashed.append(hashing())
    watching = False
    thread.join()
print(json.dumps({"first_s": first, "known_s": known, "blake3_s": hashed, "anonymous_bytes": peak}))
"""


def stored_bytes(folder: Path) -> int:
    """Bytes of packs and journal."""
    return sum(path.stat().st_size for path in (folder / ".ckstore").rglob("*") if path.suffix in (".pack", ".journal"))


def warm() -> None:
    """Take memory from the host and free it, so that what follows need not."""
    bytearray(WARM_BYTES)


def seconds(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def model(seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {f"layers.{number}.weight": torch.randn(4096, 4096) * 0.02 for number in range(LAYERS)}


def speed(folder: Path) -> Figures:
    """A new 2 GB file, and a known one."""
    found: Figures = {}
    for suffix in ("pt", "safetensors"):
        path = folder / f"big.{suffix}"
        if suffix == "pt":
            torch.save(model(0), path)
        else:
            save_file(model(0), path)
        os.sync()
        rounds = []
        for number in range(ROUNDS):
            warm()
            repo = folder / f"repo-{suffix}-{number}"
            ran = subprocess.run(
                [sys.executable, "-c", _COMMIT, path, repo, str(THREADS)], check=True, capture_output=True, text=True
            )
            rounds.append(json.loads(ran.stdout))
        size = path.stat().st_size
        known = statistics.median(second for one in rounds for second in one["known_s"])
        hashed = statistics.median(second for one in rounds for second in one["blake3_s"])
        found[suffix] = {
            "raw_bytes": size,
            "first_gb_s": size / statistics.median(one["first_s"] for one in rounds) / 1e9,
            "known_gb_s": size / known / 1e9,
            "blake3_gb_s": size / hashed / 1e9,
            "share_of_blake3": hashed / known,
            "anonymous_bytes": max(one["anonymous_bytes"] for one in rounds),
        }
        copying, writing = [], []
        with ckstore.open(folder / f"repo-{suffix}-0", threads=THREADS) as opened:
            for _ in range(ROUNDS):
                warm()
                writing.append(seconds(lambda opened=opened: opened.checkout("HEAD", folder / "out")))
                _remove(folder / "out")
                warm()
                copying.append(seconds(lambda path=path: _copy(path, folder / "copy")))
                _remove(folder / "copy")
        found[suffix] |= {
            "checkout_s": statistics.median(writing),
            "cp_fsync_s": statistics.median(copying),
        }
        for name in ("out", "copy", path.name, *(f"repo-{suffix}-{number}" for number in range(ROUNDS))):
            _remove(folder / name)
    return found


def shared(folder: Path) -> Figures:
    """How many of the tensors' bytes one model's files have in common."""
    state = model(1)
    size = sum(tensor.nbytes for tensor in state.values())
    torch.save(state, folder / "m.pt")
    save_file(state, folder / "m.safetensors")
    torch.save(state, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    found: Figures = {"tensor_bytes": size}
    with ckstore.open(folder / "repo-shared", preset="fast") as repo:
        repo.commit_files(folder / "m.pt")
        for name in ("m.safetensors", "legacy.pt"):
            made = repo.commit_files(folder / name)
            found[name] = 1 - made.pack_bytes / size
        found["memory"] = 1 - repo.commit({"model": state}).pack_bytes / size
    for name in ("m.pt", "m.safetensors", "legacy.pt", "repo-shared"):
        _remove(folder / name)
    return found


def scans(folder: Path) -> Figures:
    """Estimates, and what the files take."""
    found: Figures = {}
    for name in NAMES:
        paths = trajectory(name)
        root = Path(os.path.commonpath([path.parent for path in paths]))
        warm()
        whole = scan(ScanOptions([root], threads=THREADS))
        quarter = scan(ScanOptions([root], share=0.25, threads=THREADS))
        began = time.perf_counter()
        with ckstore.open(folder / f"repo-{name}", threads=THREADS) as repo:
            for path in paths:
                branch = path.parent.name if len({path.parent for path in paths}) > 1 else None
                repo.commit_files(path, branch=branch)
        took = time.perf_counter() - began
        real = stored_bytes(folder / f"repo-{name}")
        found[name] = {
            "raw_bytes": whole.raw_bytes,
            "real_bytes": real,
            "whole_off": whole.stored_bytes / real - 1,
            "quarter_off": quarter.stored_bytes / real - 1,
            "quarter_error": quarter.error_bytes / real,
            "whole_gb_s": whole.raw_bytes / whole.seconds / 1e9,
            "quarter_gb_s": quarter.raw_bytes / quarter.seconds / 1e9,
            "import_said_s": whole.import_s,
            "commits_s": took,
        }
        _remove(folder / f"repo-{name}")
    return found


def _copy(path: Path, target: Path) -> None:
    shutil.copyfile(path, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


PARTS = {"speed": speed, "shared": shared, "scans": scans}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--json", type=Path, help="write the figures here, beside those that are there")
    chosen = parser.parse_args()
    figures: Figures = json.loads(chosen.json.read_text()) if chosen.json and chosen.json.exists() else {}
    with tempfile.TemporaryDirectory(prefix="ckstore-bench-") as scratch:
        for name in chosen.only:
            figures[name] = PARTS[name](Path(scratch))
            print(f"{name}:")
            for what, found in figures[name].items():
                print(f"  {what}: {json.dumps(found)}")
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
