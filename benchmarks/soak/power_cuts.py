"""Power cuts on a real ext4, as many as wanted: `python benchmarks/soak/power_cuts.py [--cuts N] [--seed S]`.

The cuts are shared among the scenarios of tests/crash/power.py, two of which run at a time. Prints what each came to,
and for each run that broke the contract the command that repeats it. Needs root, loop devices and Linux on x86-64.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
POWER = [sys.executable, "-m", "tests.crash.power"]
AT_A_TIME = 2


def soaked(scenario: str, cuts: int, seed: int, more: list[str]) -> list[dict[str, Any]]:
    """The runs of a scenario with so many cuts. Raises CalledProcessError where none could be made."""
    command = [*POWER, scenario, "--cuts", str(cuts), "--seed", str(seed), *more]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 1):
        done.check_returncode()
    return [json.loads(line) for line in done.stdout.splitlines()]


def told(scenario: str, runs: list[dict[str, Any]]) -> str:
    """What the runs of a scenario came to, in a line; then those that broke the contract."""
    cuts = [cut for run in runs for cut in run["cuts"]]
    wrong = [run for run in runs if run["violations"]]
    calls = Counter(call or "after the end" for run in runs for call in run["at"])
    lines = [
        f"{scenario}: {len(runs):,} runs, {len(cuts):,} cuts, {sum(run['acknowledged'] for run in runs):,} commits "
        f"acknowledged, {len(wrong)} wrong; {sum(cut['written_back'] for cut in cuts):,} after a partial write-back, "
        f"{sum(cut['flushed'] for cut in cuts):,} with the log flushed; at {dict(calls.most_common())}"
    ]
    lines += [f"{run['again']}\n{run['cuts']} at {run['at']}\n" + "\n".join(run["violations"]) for run in wrong]
    return "\n".join(lines)


def main() -> int:
    listed = subprocess.run(POWER, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    parser = argparse.ArgumentParser()
    parser.add_argument("--cuts", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scenario", action="append", choices=listed, help="only this one (may be given again)")
    parser.add_argument("--without-journal", action="store_true", help="of the file system")
    arguments = parser.parse_args()
    more = ["--without-journal"] if arguments.without_journal else []
    scenarios = arguments.scenario or listed
    each = -(-arguments.cuts // len(scenarios))
    began = time.monotonic()
    runs = []
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        done = pool.map(lambda scenario: soaked(scenario, each, arguments.seed, more), scenarios)
        for scenario, found in zip(scenarios, done, strict=True):
            print(told(scenario, found), flush=True)
            runs += found
    print(f"\n{told('all', runs)}\n{time.monotonic() - began:.0f} s")
    return int(any(run["violations"] for run in runs))


if __name__ == "__main__":
    sys.exit(main())
