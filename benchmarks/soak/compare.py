"""The crash tests' cuts, against torch.save too: `python -m benchmarks.soak.compare [--cuts N] [--seed S]`.

A child saves a state of about 1.5 MB again and again, and is cut off as it enters a call that changes the disk: killed,
or by a power cut on a real ext4, drawn as tests/crash/power.py draws them. Then another process looks whether the
newest checkpoint whose save had returned, or the one under way, is there and equal. So many cuts of both kinds for
every way to save, one cut a run, the same seeds for all. Writes benchmarks/results/durability.json. Needs root, loop
devices and Linux on x86-64.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

import ckstore
from tests.crash import ext4
from tests.crash.halted import Halted
from tests.crash.power import drawn
from tests.equality import assert_same

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from tests.crash.power import Cut
    from tests.crash.traced import Outcome

RESULTS = Path(__file__).parents[2] / "benchmarks/results/durability.json"

BEFORE = 2
"""Saves that are on the disk for sure, so that there is something to lose."""
SAVES = 3
"""Saves more, of which any is cut off."""
LAYERS, WIDTH = 8, 144

RIGHT, OLDER, NOTHING, TORN = "right", "older", "nothing", "torn"

State = dict[str, Any]


def state(number: int) -> State:
    """The state of save `number`: the same in every process; a part of it never changes."""
    fixed, noise = (torch.Generator().manual_seed(seed) for seed in (1_000_003, number))
    names = [f"layers.{layer}.weight" for layer in range(LAYERS)]
    model = {name: torch.randn(WIDTH, WIDTH, generator=noise) for name in names}
    model["embedding"] = torch.randn(WIDTH, WIDTH, generator=fixed)
    moments = {name: torch.randn(WIDTH, WIDTH, generator=noise).square() for name in names}
    return {"model": model, "optimizer": {"moments": moments, "lr": 1e-3}, "step": number}


def straight(folder: Path, numbers: range) -> Iterator[int]:
    """What most scripts do."""
    for number in numbers:
        torch.save(state(number), folder / "ckpt.pt")
        yield number


def renamed(folder: Path, numbers: range) -> Iterator[int]:
    for number in numbers:
        torch.save(state(number), folder / "ckpt.tmp")
        os.replace(folder / "ckpt.tmp", folder / "ckpt.pt")
        yield number


def synced(folder: Path, numbers: range) -> Iterator[int]:
    """The file is synced, its folder is not."""
    for number in numbers:
        with (folder / "ckpt.tmp").open("wb") as file:
            torch.save(state(number), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(folder / "ckpt.tmp", folder / "ckpt.pt")
        yield number


def committed(folder: Path, numbers: range) -> Iterator[int]:
    with ckstore.open(folder / "repo", cache=folder / "cache", threads=1) as repo:
        for number in numbers:
            repo.commit(state(number), step=number)
            yield number


def of_file(folder: Path) -> list[State]:
    path = folder / "ckpt.pt"
    return [torch.load(path, weights_only=True)] if path.exists() else []


def of_repository(folder: Path) -> list[State]:
    """All states of the branch, the newest first."""
    with ckstore.open(folder / "repo", cache=folder / "cache", threads=1) as repo:
        return [repo[entry.id].load() for entry in repo.log()]


class Way(NamedTuple):
    """A way to save: `save` yields the number of each state once it says that it is saved."""

    save: Callable[[Path, range], Iterator[int]]
    read: Callable[[Path], list[State]]
    all_kept: bool = False


WAYS = {
    "torch.save": Way(straight, of_file),
    "torch.save, rename": Way(renamed, of_file),
    "torch.save, fsync, rename": Way(synced, of_file),
    "ckstore": Way(committed, of_repository, all_kept=True),
}


class Run(NamedTuple):
    """What one cut left: RIGHT, OLDER, NOTHING or TORN; `acknowledged`: saves that had returned by then."""

    cut: Cut
    acknowledged: int
    left: str
    why: str


class Runs:
    """Runs of one way to save in `scratch`."""

    def __init__(self, way: Way, seed: int, scratch: Path) -> None:
        self._way = way
        self._seed = seed
        self._folder = scratch / "disk"
        self._template = scratch / "template"
        self._image = scratch / "image"
        ext4.make(self._template)
        with ext4.mounted(self._template, self._folder):
            _whole(self._child(range(BEFORE)))
        ext4.copy(self._template, self._image)
        with ext4.mounted(self._image, self._folder):
            self.calls, _ = _whole(self._child(range(BEFORE, BEFORE + SAVES)))
            assert self._judged(BEFORE + SAVES - 1)[0] == RIGHT
        self._order = random.Random(seed).sample(range(1, self.calls + 2), self.calls + 1)

    def run(self, number: int, *, power: bool) -> Run:
        """Cut off at a call decided by the seed and the number, by a kill or by a power cut."""
        rng = random.Random(f"{self._seed} {number}")
        cut = drawn(self._order[number % len(self._order)], rng, journal=True)._replace(lives_on=False)
        ext4.copy(self._template, self._image)
        with ext4.mounted(self._image, self._folder, cut.options):
            child = self._child(range(BEFORE, BEFORE + SAVES))
            call = _up_to(cut.call, child)
            if power and cut.written_back:
                ext4.write_back_some(self._folder, rng)
            if cut.late_s is not None and call is not None:
                child.go_on()
                time.sleep(cut.late_s)
            if power:
                ext4.cut_power(self._folder, flushed=cut.flushed)
            saved = [report["saved"] for report in child.kill().reports if "saved" in report]
        with ext4.mounted(self._image, self._folder):
            left, why = self._judged(BEFORE + len(saved) - 1)
        return Run(cut, len(saved), left, why)

    def _child(self, numbers: range) -> Halted:
        def work(channel: socket.socket) -> None:
            warnings.simplefilter("ignore")
            for number in self._way.save(self._folder, numbers):
                channel.sendall(json.dumps({"saved": number}).encode() + b"\n")

        return Halted(work)

    def _judged(self, acknowledged: int) -> tuple[str, str]:
        """What is there, if `acknowledged` is the newest save that had returned."""

        def work(channel: socket.socket) -> None:
            channel.sendall(json.dumps({"left": _left(self._way, self._folder, acknowledged)}).encode() + b"\n")

        _, outcome = _whole(Halted(work))
        found = outcome.reports[0]["left"]
        assert isinstance(found, list)
        return found[0], found[1]


def _left(way: Way, folder: Path, acknowledged: int) -> tuple[str, str]:
    try:
        found = way.read(folder)
        for one in found:
            assert_same(one, state(one["step"]))
    except Exception as error:  # whatever it is, the user has no checkpoint
        return TORN, f"{type(error).__name__}: {error}"
    numbers = [one["step"] for one in found]
    if not numbers:
        return NOTHING, ""
    if numbers[0] not in (acknowledged, acknowledged + 1):
        return OLDER, f"{numbers[0]} instead of {acknowledged}"
    wanted = [*range(numbers[0], -1, -1)] if way.all_kept else numbers[:1]
    return (RIGHT, "") if numbers == wanted else (OLDER, f"{numbers} instead of {wanted}")


def _up_to(call: int, child: Halted) -> str | None:
    """Let the child run until it enters its call of that number, and which; None: it ended before."""
    for _ in range(call - 1):
        if child.next() is None:
            return None
        child.go_on()
    return child.next()


def _whole(child: Halted) -> tuple[int, Outcome]:
    """A child from beginning to end: how many calls it made, and what came of it."""
    calls = 0
    while child.next() is not None:
        child.go_on()
        calls += 1
    outcome = child.kill()
    assert outcome.status == 0, outcome
    return calls, outcome


def counted(runs: list[Run]) -> dict[str, int]:
    """`lost`: the newest save that had returned is not there, for whichever reason."""
    left = Counter(run.left for run in runs)
    return {
        "runs": len(runs),
        "acknowledged": sum(run.acknowledged for run in runs),
        "lost": len(runs) - left[RIGHT],
        **{what: left[what] for what in (OLDER, NOTHING, TORN)},
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cuts", type=int, default=300, help="of each kind, for each way to save")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    why = ext4.missing()
    if why is not None:
        sys.exit(f"power cannot be cut here: {why}")
    ext4.keep_mounts_private()
    found: dict[str, Any] = {}
    for name, way in WAYS.items():
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="ckstore-compare-", dir="/dev/shm") as folder:
            runs = Runs(way, arguments.seed, Path(folder))
            killed = [runs.run(number, power=False) for number in range(arguments.cuts)]
            cut = [runs.run(number, power=True) for number in range(arguments.cuts)]
        options = {option: [run for run in cut if run.cut.options == option] for option in sorted(set(ext4.OPTIONS))}
        found[name] = {
            "calls": runs.calls,
            "kill": counted(killed),
            "power": counted(cut),
            "power, by mount": {option: counted(part) for option, part in options.items()},
        }
        print(f"{name}: {json.dumps(found[name], indent=1)} {time.monotonic() - began:.0f} s", flush=True)
        for text, count in Counter(run.why.split("\n")[0][:150] for run in killed + cut if run.why).most_common(8):
            print(f"  {count} x {text}")
    told = {"seed": arguments.seed, "linux": platform.release(), "torch": torch.__version__, "ways": found}
    RESULTS.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
