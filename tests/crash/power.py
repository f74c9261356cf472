"""Cuts the power of a real ext4 under a save: `python -m tests.crash.power SCENARIO --seed S [--first K] [--cuts N]`.

Run `number` of a scenario is decided by the seed. A child saves, and at one of its calls that change the disk, which
are gone through in a random order, the power is cut; sometimes some pages of unsynced files are written back just
before, sometimes the call is let through at that moment, sometimes the child goes on with a dead disk. Then the file
system is mounted anew. In one run of three another child goes on from there and is cut off as well. The judge comes
last. Prints a line of JSON a run; the exit status is 1 where one broke the contract, 77 where nothing can be cut here.

With `--without-journal` the file system has none: that is beyond what is promised, but shows what folders that are not
synced lose, for a file system's journal brings all older names to the disk whenever a file that has grown is synced.

A new scenario is a line in SCENARIOS, if the driver has an option for what it does.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import random
import shlex
import signal
import sys
import tempfile
import time
import warnings
from contextlib import nullcontext
from pathlib import Path
from subprocess import CalledProcessError
from typing import TYPE_CHECKING, NamedTuple, cast

from ckstore.errors import CkstoreError
from tests.crash import driver, ext4
from tests.crash.halted import Halted
from tests.crash.mutants import MUTANTS
from tests.crash.oracle import Verdict, judge

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Sequence

    from tests.crash.machine import Machine
    from tests.crash.states import Label
    from tests.crash.traced import Outcome

CANNOT = 77


class Scenario(NamedTuple):
    """What is on the disk before, by the arguments of the child that makes it (none: nothing), and what is cut off."""

    before: Sequence[object]
    child: Sequence[object]
    killed_first: bool = False
    """Such a child is killed at any of its calls before the one whose power is cut starts."""
    collected: bool = False
    """gc is at work."""


CHAIN = ["--init", "--saves", 5, "--shape", "chain"]
PREPARED = ["--init", "--saves", 2, "--shape", "large"]

SCENARIOS = {
    "two saves": Scenario(PREPARED, ["--first", 2, "--saves", 2, "--shape", "large"]),
    "saves with blocks taken ahead": Scenario(
        [*PREPARED, "--ahead"], ["--first", 2, "--saves", 2, "--shape", "large", "--ahead"]
    ),
    "many saves": Scenario(PREPARED, ["--first", 2, "--saves", 8]),
    "init": Scenario([], ["--init", "--saves", 2]),
    "a new journal segment": Scenario(["--init", "--saves", 5], ["--first", 5, "--saves", 3, "--rotate"]),
    "gc": Scenario(CHAIN, ["--collect-first", "--first", 6, "--saves", 2, "--shape", "chain"], collected=True),
    "gc after each save": Scenario(
        CHAIN, ["--collect-every", 1, "--first", 6, "--saves", 3, "--shape", "chain"], collected=True
    ),
    "recovery": Scenario(PREPARED, ["--first", 3, "--saves", 2], killed_first=True),
}


class Cut(NamedTuple):
    """When the power goes, and how."""

    call: int
    """The call of the child that it goes at, counted from 1; if there are fewer, when the child has ended."""
    options: str
    flushed: bool
    """The file system's journal reaches the disk just before."""
    written_back: bool
    """Some pages of some files do."""
    late_s: float | None
    """The call is let through so many seconds before."""
    lives_on: bool
    """The child goes on until it has ended, with a disk that takes nothing more."""


def drawn(call: int, rng: random.Random, *, journal: bool) -> Cut:
    """Without a journal the image is copied while the child halts."""
    if not journal:
        return Cut(call, rng.choice(ext4.OPTIONS_WITHOUT_JOURNAL), False, rng.random() < 0.5, None, False)
    late = rng.random() < 0.25
    return Cut(
        call,
        rng.choice(ext4.OPTIONS),
        flushed=rng.random() < 0.3,
        written_back=rng.random() < 0.5,
        late_s=rng.choice((0.0, 0.0002, 0.001)) if late else None,
        lives_on=rng.random() < 0.2,
    )


class Run(NamedTuple):
    """What came of one run."""

    number: int
    cuts: list[Cut]
    at: list[str | None]
    acknowledged: int
    violations: list[str]


class Runs:
    """The runs of one scenario in `scratch`, all with one mutant or with none."""

    def __init__(self, scenario: Scenario, seed: int, scratch: Path, mutant: str | None, *, journal: bool) -> None:
        self._scenario = scenario
        self._journal = journal
        self._seed = seed
        self._mutant = mutant
        self._folder = scratch / "disk"
        self._template = scratch / "template"
        self._image = scratch / "image"
        self._reached = scratch / "reached"
        ext4.make(self._template, journal=journal)
        self._before: dict[str, Label] = {}
        if scenario.before:
            with ext4.mounted(self._template, self._folder):
                self._before = _whole(self._child(scenario.before, mutated=False))[1].acknowledged
        ext4.copy(self._template, self._image)
        with ext4.mounted(self._image, self._folder):
            self.calls, _ = _whole(self._child(scenario.child))
        self._order = random.Random(seed).sample(range(1, self.calls + 2), self.calls + 1)

    def run(self, number: int) -> Run:
        rng = random.Random(f"{self._seed} {number}")
        cuts = [drawn(self._order[number % len(self._order)], rng, journal=self._journal)]
        if rng.random() < 1 / 3:
            cuts.append(drawn(rng.randint(1, self.calls + 1), rng, journal=self._journal))
        ext4.copy(self._template, self._image)
        acknowledged = dict(self._before)
        violations: list[str] = []
        at = []
        for position, cut in enumerate(cuts):
            with ext4.mounted(self._image, self._folder, cut.options):
                call, outcomes = self._cut(cut, 1_000 * position, rng, killed_first=position == 0)
            if not self._journal:
                self._reached.replace(self._image)
                ext4.check(self._image)
            at.append(call)
            for outcome in outcomes:
                acknowledged |= outcome.acknowledged
                violations += misbehaved(outcome)
        with ext4.mounted(self._image, self._folder):
            violations += self._judged(acknowledged)
        return Run(number, cuts, at, len(acknowledged) - len(self._before), violations)

    def _cut(self, cut: Cut, later: int, rng: random.Random, *, killed_first: bool) -> tuple[str | None, list[Outcome]]:
        """The call at which the power went, and what came of the children."""
        outcomes = []
        if self._scenario.killed_first and killed_first:
            first = self._child(self._scenario.child, 100)
            _up_to(rng.randint(1, self.calls), first)
            outcomes.append(first.kill())
        child = self._child(self._scenario.child, later)
        call = _up_to(cut.call, child)
        if cut.written_back:
            ext4.write_back_some(self._folder, rng)
        if cut.late_s is not None and call is not None:
            child.go_on()
            time.sleep(cut.late_s)
        if self._journal:
            ext4.cut_power(self._folder, flushed=cut.flushed)
        else:
            ext4.copy(self._image, self._reached)
        if cut.lives_on and call is not None:
            child.go_on()
            while child.next() is not None:
                child.go_on()
        return call, [*outcomes, child.kill()]

    def _child(self, arguments: Sequence[object], later: int = 0, *, mutated: bool = True) -> Halted:
        """A child that does what `arguments` say, with states `later` than those they name."""
        told = driver.parsed([str(self._folder / "repo"), *map(str, arguments)])
        told.first += later

        def work(channel: socket.socket) -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                mutate = MUTANTS[self._mutant].mutate if self._mutant and mutated else None
                try:
                    with mutate(cast("Machine", _Heard(channel))) if mutate else nullcontext():
                        driver.work(told, channel)
                except OSError as error:
                    # A disk that is gone cannot be read; but a save that failed for that says so with its own error.
                    if error.errno != errno.EIO or isinstance(error.__context__, CkstoreError):
                        raise

        return Halted(work)

    def _judged(self, acknowledged: dict[str, Label]) -> list[str]:
        def work(channel: socket.socket) -> None:
            found = judge(self._folder / "repo", acknowledged, Verdict(collected=self._scenario.collected))
            channel.sendall(json.dumps({"found": found}).encode() + b"\n")

        _, outcome = _whole(Halted(work))
        return [text for report in outcome.reports for text in cast("list[str]", report["found"])]


class _Heard:
    """The part of a machine that mutants speak to."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel

    def acknowledge(self, id: str, name: Label) -> None:
        self._channel.sendall(json.dumps({"id": id, "name": str(name)}).encode() + b"\n")


def misbehaved(outcome: Outcome) -> list[str]:
    """What a child said or did that it must not, whatever the disk does."""
    return [
        f"the child reported {report}"
        for report in outcome.reports
        if "raised" in report or report.get("error") not in (None, "StoreFull", "SaveFailed")
    ]


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


def again(arguments: argparse.Namespace, number: int) -> str:
    """The command line that repeats a run."""
    command = ["python", "-m", "tests.crash.power", arguments.scenario, "--seed", arguments.seed, "--first", number]
    command += ["--mutant", arguments.mutant] if arguments.mutant else []
    command += ["--without-journal"] if arguments.without_journal else []
    return shlex.join(map(str, command))


def results(arguments: argparse.Namespace, scratch: Path) -> Iterator[Run]:
    """Runs with at least so many cuts in all; up to the first that breaks the contract, if so wished."""
    scenario, journal = SCENARIOS[arguments.scenario], not arguments.without_journal
    runs = Runs(scenario, arguments.seed, scratch, arguments.mutant, journal=journal)
    number, left = arguments.first, arguments.cuts
    while left > 0:
        run = runs.run(number)
        yield run
        if run.violations and arguments.first_catch:
            return
        number, left = number + 1, left - len(run.cuts)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("scenario", nargs="?", choices=SCENARIOS, help="without one: list them")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="the first run")
    parser.add_argument("--cuts", type=int, default=1)
    parser.add_argument("--mutant", choices=MUTANTS)
    parser.add_argument("--without-journal", action="store_true", help="of the file system")
    parser.add_argument("--first-catch", action="store_true", help="stop at the first run that breaks the contract")
    parser.add_argument("--scratch", help="where the images lie (default: memory, or the system's place)")
    arguments = parser.parse_args()
    if arguments.scenario is None:
        print("\n".join(SCENARIOS))
        return 0
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(128 + signal.SIGTERM))
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    wrong = False
    with tempfile.TemporaryDirectory(prefix="ckstore-power-", dir=arguments.scratch or shared) as folder:
        why = ext4.missing() or _tried(Path(folder))
        if why is not None:
            print(why, file=sys.stderr)
            return CANNOT
        for run in results(arguments, Path(folder)):
            wrong = wrong or bool(run.violations)
            line = {**run._asdict(), "cuts": [cut._asdict() for cut in run.cuts], "again": again(arguments, run.number)}
            print(json.dumps(line), flush=True)
    return int(wrong)


def _tried(scratch: Path) -> str | None:
    """Mount a file system, cut it off, halt a child; why that cannot be done here, if it cannot."""
    try:
        ext4.keep_mounts_private()
        ext4.make(scratch / "tried")
        with ext4.mounted(scratch / "tried", scratch / "disk") as folder:
            ext4.cut_power(folder, flushed=False)
        Halted(lambda _: None).kill()
    except (OSError, CalledProcessError) as error:
        return f"power cannot be cut here: {error} {getattr(error, 'stderr', '')}".strip()
    (scratch / "tried").unlink()
    return None


if __name__ == "__main__":
    sys.exit(main())
