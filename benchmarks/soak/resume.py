"""A real run killed at random instants, resumed each time: `python -m benchmarks.soak.resume [--seed N] [--kills M]`.

It ends bit-identical to one never killed, or the seed is printed (`tests/train/killed.py`). --rounds repeats it.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path

from tests.train.killed import killed_and_straight


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    wrong = 0
    for seed in range(arguments.seed, arguments.seed + arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            straight, killed = killed_and_straight(Path(folder), seed, arguments.kills)
        differing = [path for path in straight.end if straight.end[path] != killed.end.get(path)]
        wrong += bool(differing) or straight.end.keys() != killed.end.keys()
        verdict = f"DIFFERS: {', '.join(differing[:5])}" if differing else "bit-identical"
        print(f"seed {seed}: {killed.kills} kills, went on at {killed.resumed_at}: {verdict}", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
