"""Damages files of a repository, as often as wanted: `python benchmarks/soak/flips.py [--count N] [--seed S]`.

Flips so many random bits, or with `--every` each bit of a smaller repository in turn (hours); with `--steps` files are
cut, lengthened, zeroed, doubled and lost instead, at all steps of 512 bytes. `--file index/` does only files whose
names begin so. Each is done to a copy, which a process of its own examines: right bytes or a typed error, never a
signal. Prints what it came to and a line for each failure; `--again "flip index/data.mdb 77"` does that one again.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from ckstore.storage.layout import FOLDER  # noqa: E402
from tests.crash.damage import every_flip, files, flips, parsed, prepare, steps  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.crash.damage import Damage


def soaked(template: Path, damages: Iterable[Damage]) -> Counter[str]:
    """Do them one after another; how many of each outcome. Prints failures as they come."""
    outcomes: Counter[str] = Counter()
    command = [sys.executable, "-m", "tests.crash.examiner", str(template)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as examiner:
        assert examiner.stdin is not None
        assert examiner.stdout is not None
        for damage in damages:
            examiner.stdin.write(f"{damage}\n")
            examiner.stdin.flush()
            said = json.loads(examiner.stdout.readline())
            outcome = "wrong" if said["wrong"] else "noticed" if said["found"] else "of no consequence"
            outcomes[f"{damage.file.split('/')[0]}: {outcome}"] += 1
            if said["wrong"]:
                print(f'--again "{damage}": {said["wrong"][0].strip().splitlines()[-1]}', flush=True)
        examiner.stdin.close()
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", action="store_true", help="each bit in turn")
    parser.add_argument("--steps", action="store_true", help="cut, lengthen, zero, double, lose")
    parser.add_argument("--file", default="", help="only files whose names begin so")
    parser.add_argument("--again", help="one damage")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        template = Path(scratch) / "repo"
        prepare(template, ("short",) if arguments.every else ("chain", "small"))
        sizes = {name: size for name, size in files(template / FOLDER).items() if name.startswith(arguments.file)}
        chosen: Iterable[Damage] = flips(sizes, arguments.count, random.Random(arguments.seed))
        if arguments.again:
            chosen = [parsed(arguments.again)]
        elif arguments.every:
            chosen = every_flip(sizes)
        elif arguments.steps:
            chosen = steps(sizes)
        began = time.monotonic()
        outcomes = soaked(template, chosen)
    for outcome, number in sorted(outcomes.items()):
        print(f"{number:8,} {outcome}")
    print(
        f"{sum(outcomes.values()):8,} in {len(sizes)} files of {sum(sizes.values()):,} bytes, "
        f"{time.monotonic() - began:.0f} s"
    )
    return int(any(outcome.endswith("wrong") for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
