"""Bytes and times of a store, side by side in one run: `python benchmarks/bench_store.py [--json FILE] [--svg FILE]`.

Sizes: raw / stored (packs and journal) of the trajectories of workloads.py after all checkpoints, for each preset and
as files, beside the order-0 entropy of their byte planes. Times: states of at least 1.2 GB, trained on between rounds,
saved and loaded in turn by torch.save + fsync, safetensors + fsync, torch.distributed.checkpoint and ckstore, with as
many threads and a warm cache; medians. The last dense commit has the deepest chain that `balanced` makes.
Curve: size against the time of a checkout.

Free memory of a virtual machine goes back to its host within seconds and then costs up to 3 s a GB to take again, which
would hide everything else; before each measurement as much as it may need is therefore touched and freed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import statistics
import tempfile
import time
from dataclasses import replace
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scaling import scaling
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save
from workloads import NAMES, Large, State, raw_bytes, trajectory

import ckstore
from ckstore.codec.compiled import passes_of
from ckstore.codec.planes import Planes
from ckstore.codec.preset import ARCHIVE, BALANCED, FAST, PRESETS, Preset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROUNDS = {"dense": 7, "bf16": 5, "frozen": 5}
STEPS = 3
THREADS = 2
WARM_BYTES = 5 << 29
Figures = dict[str, Any]


def disk_bytes(folder: Path) -> int:
    """Bytes of packs and journal: the truth, without the index."""
    return sum(path.stat().st_size for path in (folder / ".ckstore").rglob("*") if path.suffix in (".pack", ".journal"))


def cpu_seconds() -> float:
    """Time of all cores that this process has used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def memory(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    text = Path("/proc/self/status").read_text()
    return int(text.split(name + ":")[1].split()[0]) * 1024


def measured(work: Callable[[], object]) -> dict[str, float]:
    """Wall time, CPU time and memory above what was there before, of one call on warm memory."""
    touched = np.zeros(WARM_BYTES, np.uint8)
    touched[::4096] = 1
    del touched
    Path("/proc/self/clear_refs").write_text("5")
    resident, cpu, began = memory("VmRSS"), cpu_seconds(), time.perf_counter()
    kept = work()
    wall, used = time.perf_counter() - began, cpu_seconds() - cpu
    peak = memory("VmHWM") - resident
    del kept
    return {"s": wall, "cpu_s": used, "extra_bytes": peak}


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}


# Sizes


def sizes(folder: Path) -> Figures:
    """raw / stored of every trajectory, for each preset and as files, with its entropy bounds."""
    found: Figures = {}
    for name in NAMES:
        paths = trajectory(name)
        states = [torch.load(path) for path in paths]
        branches = [path.parent.name if name == "branches" else None for path in paths]
        one: Figures = {"raw_bytes": sum(map(raw_bytes, states)), "checkpoints": len(states)}
        for preset in PRESETS:
            with ckstore.open(folder / name / preset, preset=preset, threads=THREADS) as repo:
                for state, branch in zip(states, branches, strict=True):
                    repo.commit(state, branch=branch)
            one[preset] = one["raw_bytes"] / disk_bytes(folder / name / preset)
        with ckstore.open(folder / name / "files", threads=THREADS) as repo:
            for path, branch in zip(paths, branches, strict=True):
                repo.commit_files(path, branch=branch)
        one["balanced, as files"] = one["raw_bytes"] / disk_bytes(folder / name / "files")
        one["entropy, each by itself"], one["entropy, with differences"] = bounds(states)
        found[name] = one
        print(name, json.dumps(one), flush=True)
        shutil.rmtree(folder / name)
    return found


def bounds(states: list[State]) -> tuple[float, float]:
    """raw / order-0 entropy of all byte planes: each tensor by itself, and at best as the difference to the last one.

    A tensor that did not change costs nothing in both. No code that looks at one byte of a plane at a time does better.
    """
    alone = against = total = 0.0
    before: dict[str, torch.Tensor] = {}
    for state in states:
        now = dict(tensors(state))
        for path, tensor in now.items():
            raw, old = bytes_of(tensor), before.get(path)
            total += raw.nbytes
            if old is not None and old.shape == tensor.shape and torch.equal(old, tensor):
                continue
            itself = bound(raw, None, tensor.dtype)
            alone += itself
            against += itself if old is None else min(itself, bound(raw, bytes_of(old), tensor.dtype))
        before = {path: tensor.clone() for path, tensor in now.items()}
    return total / alone, total / against


def bound(raw: memoryview, base: memoryview | None, dtype: torch.dtype) -> float:
    """Bytes of order-0 entropy of the planes of a tensor."""
    width = dtype.itemsize
    if width not in (1, 2, 4, 8) or raw.nbytes < 1 << 10 or (base is not None and base.nbytes != raw.nbytes):
        return raw.nbytes
    looks = Planes(passes_of(width)).survey(raw, base, rotate=dtype.is_floating_point and base is None, sample=1 << 30)
    return raw.nbytes * statistics.mean(look.entropy for look in looks)


def tensors(state: object, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a nested state with its path."""
    if isinstance(state, torch.Tensor):
        yield path, state
    elif isinstance(state, dict):
        for key, value in state.items():
            yield from tensors(value, f"{path}.{key}")
    elif isinstance(state, (list, tuple)):
        for number, value in enumerate(state):
            yield from tensors(value, f"{path}.{number}")


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """A contiguous tensor's bytes."""
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]


# Times


def safetensors_save(flat: State, path: Path) -> None:
    """safetensors + fsync."""
    save_file(flat, path)
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def commit(repo: ckstore.Repo, state: State, stored: list[int]) -> None:
    """A commit; the bytes it added are noted."""
    stored.append(repo.commit(state).pack_bytes)


def checkout(repo: ckstore.Repo, revision: str) -> object:
    """A state in memory."""
    return repo[revision].load()


def torch_save(state: State, path: Path) -> None:
    """torch.save + fsync."""
    with path.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


def times(folder: Path, kind: str) -> Figures:
    """Saves and loads of one kind of state in turn; the first round, where ckstore has no earlier version, apart."""
    training = Large(kind)
    state = training.advance(20)
    folder.mkdir(parents=True)
    repos = {
        preset.name: ckstore.open(folder / preset.name, preset=preset.name, threads=THREADS)
        for preset in (BALANCED, FAST)
    }
    saves: dict[str, list[dict[str, float]]] = {}
    loads: dict[str, list[dict[str, float]]] = {}
    stored: dict[str, list[int]] = {name: [] for name in repos}
    for turn in range(1 + ROUNDS[kind]):
        flat = {path: tensor.contiguous() for path, tensor in tensors(state)}
        empty = {path: torch.empty_like(tensor) for path, tensor in flat.items()}
        savers: dict[str, Callable[[], object]] = {
            "torch.save": partial(torch_save, state, folder / "x.pt"),
            "safetensors": partial(safetensors_save, flat, folder / "x.st"),
            "dcp": partial(dcp_save, flat, checkpoint_id=folder / "dcp", no_dist=True),
            **{name: partial(commit, repo, state, stored[name]) for name, repo in repos.items()},
        }
        loaders: dict[str, Callable[[], object]] = {
            "torch.save": partial(torch.load, folder / "x.pt", mmap=False),
            "safetensors": partial(load_file, folder / "x.st"),
            "dcp": partial(dcp_load, empty, checkpoint_id=folder / "dcp", no_dist=True),
            **{name: partial(checkout, repo, "HEAD") for name, repo in repos.items()},
        }
        for name, save in savers.items():
            saves.setdefault(name, []).append(measured(save))
        for name, load in loaders.items():
            loads.setdefault(name, []).append(measured(load))
        print(kind, turn, {name: f"{runs[-1]['s']:.2f}" for name, runs in saves.items()}, "loads",
              {name: f"{runs[-1]['s']:.2f}" for name, runs in loads.items()}, flush=True)  # fmt: skip
        shutil.rmtree(folder / "dcp")
        for name in ("x.pt", "x.st"):
            (folder / name).unlink()
        state = training.advance(STEPS)
    for repo in repos.values():
        repo.close()
    shutil.rmtree(folder)
    raw = raw_bytes(state)
    base, deepest = saves["torch.save"], loads["balanced"][-1]["s"]
    return {
        "raw_bytes": raw,
        "first save": {name: runs[0] for name, runs in saves.items()},
        "save": {name: medians(runs[1:]) for name, runs in saves.items()},
        "save / torch.save": {name: ratio(runs[1:], base[1:]) for name, runs in saves.items()},
        "first load": {name: runs[0] for name, runs in loads.items()},
        "load": {name: medians(runs[1:]) for name, runs in loads.items()},
        "stored / raw, first": {name: lengths[0] / raw for name, lengths in stored.items()},
        "stored / raw, later": {name: statistics.mean(lengths[1:]) / raw for name, lengths in stored.items()},
        "deepest load / torch.load": deepest / medians(loads["torch.save"])["s"],
        "depth-0 load / torch.load": loads["balanced"][0]["s"] / loads["torch.save"][0]["s"],
        "commit extra bytes": max(run["extra_bytes"] for run in saves["balanced"]),
    }


def ratio(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> float:
    """The median of the ratios of wall times, round by round."""
    return statistics.median(a["s"] / b["s"] for a, b in zip(ours, theirs, strict=True))


def two_versions() -> dict[str, object]:
    """A dense state and its next version, each in memory of its own."""
    training = Large("dense")
    return {
        name: {part: {k: v.clone() for k, v in tensors(value)} for part, value in training.advance(steps).items()}
        for name, steps in (("new", 20), ("delta", STEPS))
    }


# The curve


def variants() -> dict[str, Preset]:
    """Presets, and what lies between them."""
    skips = {f"skip-deltas, work <= {work}": replace(BALANCED, max_work=work) for work in (2.5, 8.0)}
    chains = {
        f"plain chains, depth <= {depth}": replace(ARCHIVE, max_depth=depth, plane_worth=BALANCED.plane_worth)
        for depth in (1, 4)
    }
    return {**PRESETS, **skips, **chains}


def curve(folder: Path) -> list[Figures]:
    """For each variant raw / stored of the dense trajectory, and the median time of checking out each checkpoint."""
    states = [torch.load(path) for path in trajectory("pretrain")]
    points = []
    for name, preset in variants().items():
        PRESETS[BALANCED.name] = preset  # settings know no other names
        with ckstore.open(folder / "curve", preset=BALANCED.name, threads=THREADS) as repo:
            for step, state in enumerate(states):
                repo.commit(state, step=step)
            seconds = [
                statistics.median(measured(partial(checkout, repo, f"step:{step}"))["s"] for _ in range(3))
                for step in range(len(states))
            ]
        raw = sum(map(raw_bytes, states))
        points.append({
            "name": name,
            "ratio": raw / disk_bytes(folder / "curve"),
            "mean_s_per_gb": statistics.mean(seconds) * len(states) / raw * 1e9,
            "worst_s_per_gb": max(seconds) * len(states) / raw * 1e9,
        })  # fmt: skip
        print(points[-1], flush=True)
        shutil.rmtree(folder / "curve")
    PRESETS[BALANCED.name] = BALANCED
    return points


def drawing(points: list[Figures]) -> str:
    """The curve as SVG: time of a checkout upwards, raw / stored to the right."""
    width, height, edge = 860, 420, 60
    right = math.ceil(max(point["ratio"] for point in points) * 20 + 1) / 20
    left, top = 0.95, math.ceil(max(point["worst_s_per_gb"] for point in points) * 1.1 * 2) / 2

    def at(point: Figures, key: str) -> tuple[float, float]:
        x = edge + (point["ratio"] - left) / (right - left) * (width - 2 * edge - 160)
        return x, height - edge - point[key] / top * (height - 2 * edge)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        'font-size="12"><rect width="100%" height="100%" fill="white"/>',
        f'<text x="{edge}" y="24" font-size="15">Dense fp32 + AdamW, 10 checkpoints: size against checkout time</text>',
        f'<path d="M{edge} {edge - 16}V{height - edge}H{width - edge}" fill="none" stroke="#888"/>',
        f'<text x="{width / 2}" y="{height - 18}" text-anchor="middle">raw / stored</text>',
        f'<text x="16" y="{height / 2}" text-anchor="middle" transform="rotate(-90 16 {height / 2})">s per GB</text>',
    ]
    for number in range(int(top * 2) + 1):
        y = height - edge - number / 2 / top * (height - 2 * edge)
        lines.append(f'<text x="{edge - 8}" y="{y + 4:.0f}" text-anchor="end" fill="#666">{number / 2}</text>')
    for number in range(10, math.floor(right * 10) + 1):
        x = edge + (number / 10 - left) / (right - left) * (width - 2 * edge - 160)
        lines.append(
            f'<text x="{x:.0f}" y="{height - edge + 18}" text-anchor="middle" fill="#666">{number / 10}</text>'
        )
    lowest = math.inf
    for point in sorted(points, key=lambda point: -point["worst_s_per_gb"]):
        (x, mean), (_, worst) = at(point, "mean_s_per_gb"), at(point, "worst_s_per_gb")
        colour = "#c33" if point["name"] in ("balanced", "archive", "fast") else "#36a"
        lowest = min(worst, lowest) if lowest is math.inf else max(worst, lowest + 16)
        lines += [
            f'<path d="M{x:.0f} {worst:.0f}V{mean:.0f}" stroke="{colour}"/>',
            f'<circle cx="{x:.0f}" cy="{mean:.0f}" r="5" fill="{colour}"/>',
            f'<circle cx="{x:.0f}" cy="{worst:.0f}" r="3" fill="white" stroke="{colour}"/>',
            f'<text x="{width - edge - 150}" y="{lowest + 4:.0f}" fill="{colour}">{escape(point["name"])}</text>',
            f'<path d="M{x + 6:.0f} {worst:.0f}L{width - edge - 154} {lowest:.0f}" stroke="#ddd" fill="none"/>',
        ]
    lines.append(f'<text x="{edge}" y="42" fill="#666">full: mean of all checkpoints; hollow: the slowest</text></svg>')
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what was asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures here; what it holds of other parts is kept")
    parser.add_argument("--svg", type=Path, help="draw the curve here")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--only", nargs="*", default=["sizes", "dense", "bf16", "frozen", "scaling", "curve"])
    asked = parser.parse_args()
    torch.set_num_threads(THREADS)
    figures: Figures = json.loads(asked.json.read_text()) if asked.json and asked.json.exists() else {}
    with tempfile.TemporaryDirectory(dir=asked.folder) as scratch:
        folder = Path(scratch)
        for part in asked.only:
            if part == "sizes":
                figures[part] = sizes(folder)
            elif part == "scaling":
                figures[part] = scaling(folder, two_versions())
            elif part == "curve":
                figures[part] = curve(folder)
            else:
                figures[part] = times(folder / part, part)
            if asked.json:
                asked.json.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))
    if asked.svg and "curve" in figures:
        asked.svg.write_text(drawing(figures["curve"]))


if __name__ == "__main__":
    main()
