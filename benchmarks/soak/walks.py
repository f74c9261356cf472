"""Random walks through everything that gc meets: `python -m benchmarks.soak.walks [--seed N] [--minutes M]`.

Each is forty steps of commits, gc, killed gc, undo, repair and branches by three handles (`tests/crash/walks.py`). A
failure prints its seed and its steps; `--seed` with that number and `--minutes 0` repeats it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import traceback
from pathlib import Path

from tests.crash.walks import Walk


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=5)
    arguments = parser.parse_args()
    began, seed, wrong = time.monotonic(), arguments.seed, 0
    while True:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            walk = Walk(Path(folder), seed)
            try:
                walk.run()
            except Exception:
                wrong += 1
                print(f"seed {seed}: {walk.log}\n{traceback.format_exc()}", flush=True)
        seed += 1
        if time.monotonic() - began > 60 * arguments.minutes:
            break
    print(f"{seed - arguments.seed} walks, {wrong} wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
