"""What gc leaves and writes: `python benchmarks/bench_gc.py [--json FILE] [--folder DIR] [--commits N]`.

A network is trained with AdamW for real (fp32, the targets another network's), and its state committed every few
steps: 100 commits. Then `gc --repack --grace 0` with each policy, in a copy of its own, beside a repository that only
ever got the commits that are kept. Sizes are of packs and journal; bytes written are of the new packs; the tip's times
are medians.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import ckstore

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMITS = 100
STEPS = 10
POLICIES = ("last=3", "last=10 every=200")
WIDTH = 768
LOADS = 5

State = dict[str, Any]


def training(commits: int) -> Iterator[State]:
    """The states of a run, one for each commit; good until the next."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(WIDTH, WIDTH) for _ in range(4)]
    model = torch.nn.Sequential(*(part for layer in layers for part in (layer, torch.nn.GELU())))
    teacher = torch.nn.Linear(WIDTH, WIDTH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for _ in range(commits):
        for _ in range(STEPS):
            inputs = torch.randn(64, WIDTH)
            loss = torch.nn.functional.mse_loss(model(inputs), teacher(inputs).detach())
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        yield {"model": model.state_dict(), "optimizer": optimizer.state_dict()}


def size(repo: ckstore.Repo) -> int:
    """Bytes of packs and journal."""
    folder = repo.path / ".ckstore"
    return sum(path.stat().st_size for part in ("packs", "journal") for path in (folder / part).iterdir())


def load_s(repo: ckstore.Repo) -> float:
    """The time to load the tip."""
    times = []
    for _ in range(LOADS):
        began = time.perf_counter()
        repo["HEAD"].load()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def collected(template: Path, folder: Path, policy: str, commits: int) -> dict[str, float]:
    """One policy carried out in a copy, beside a repository with what it keeps alone."""
    shutil.copytree(template, folder / "copy")
    with ckstore.open(folder / "copy") as repo, ckstore.open(folder / "fresh") as fresh:
        before, tip_before = size(repo), load_s(repo)
        began = time.perf_counter()
        result = repo.gc(policy, grace="0", repack=True)
        gc_s = time.perf_counter() - began
        kept = {one.step for one in result.plan.commits if one.kept}
        for number, state in enumerate(training(commits)):
            step = (number + 1) * STEPS
            if step in kept:
                fresh.commit(state, step=step)
        assert repo.verify(read_data=True).ok
        found = {
            "kept": float(len(kept)),
            "commits": float(commits),
            "before_bytes": float(before),
            "after_bytes": float(size(repo)),
            "fresh_bytes": float(size(fresh)),
            "written_bytes": float(result.written_bytes),
            "removed_bytes": float(result.removed_bytes),
            "gc_s": gc_s,
            "tip_before_s": tip_before,
            "tip_after_s": load_s(repo),
        }
    shutil.rmtree(folder / "copy")
    shutil.rmtree(folder / "fresh")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--folder", type=Path, help="where the repositories lie (default: the system's place)")
    parser.add_argument("--commits", type=int, default=COMMITS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        with ckstore.open(folder / "template") as repo:
            for number, state in enumerate(training(arguments.commits)):
                repo.commit(state, step=(number + 1) * STEPS)
        for policy in POLICIES:
            one = found[policy] = collected(folder / "template", folder, policy, arguments.commits)
            dead = one["removed_bytes"]
            print(
                f"{policy}: {one['before_bytes'] / 1e6:.0f} MB -> {one['after_bytes'] / 1e6:.1f} MB"
                f" in {one['gc_s']:.1f} s,"
                f" {one['after_bytes'] / one['fresh_bytes']:.3f}x a fresh repository of the {one['kept']:.0f} kept;"
                f" written {one['written_bytes'] / 1e6:.1f} MB, {one['written_bytes'] / dead:.3f} of what was removed;"
                f" loading the tip {one['tip_before_s'] * 1e3:.0f} -> {one['tip_after_s'] * 1e3:.0f} ms"
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
