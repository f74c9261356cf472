"""Writes the README's figures from benchmarks/results/: `python benchmarks/figures.py [--check]`.

`--check` changes nothing and fails where the README says something else than the results.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
_BEGIN = "<!-- figures: written by benchmarks/figures.py -->\n"
_END = "<!-- end of figures -->"


def figures() -> str:
    """The figures as a Markdown table."""
    core = json.loads((ROOT / "benchmarks/results/core.json").read_text())
    one, two = core["unchanged, 1 thread"], core["unchanged, 2 threads"]
    many, commands = core["10,000 tensors of 1 KiB"], core["commands"]
    checkout = core["checkout"]
    rows = [
        (
            "commit of an unchanged 1.26 GB state, 2 threads",
            f"{two['commit_s']:.2f} s, {two['added_bytes']:.0f} bytes added",
        ),
        ("... as a share of BLAKE3's own speed on the same threads", f"{two['share_of_blake3_speed']:.0%}"),
        ("... the same on 1 thread", f"{one['commit_s']:.2f} s, {one['share_of_blake3_speed']:.0%}"),
        (
            "first commit of 10,000 tensors of 1 KiB, against torch.save + fsync",
            f"{many['commit_s']:.2f} s, {many['ratio']:.2f}x",
        ),
        (
            f"memory a checkout of {checkout['state_bytes'] / 1e6:.0f} MB takes beyond the state itself",
            f"{checkout['extra_bytes'] / 1e6:.0f} MB",
        ),
        (
            "`ckstore --help` / `ckstore log -n 20` of 1,000 commits",
            f"{commands['help_s']:.2f} s / {commands['log_s']:.2f} s",
        ),
    ]
    table = "".join(f"| {what} | {value} |\n" for what, value in rows)
    return (
        "Medians of one run of `python benchmarks/bench_core.py` on two cores of a shared virtual machine;\n"
        "machines differ, ratios less so.\n\n"
        f"| what | measured |\n|---|---|\n{table}"
    )


def main() -> None:
    """Put the figures between the README's markers."""
    readme = ROOT / "README.md"
    text = readme.read_text()
    before, rest = text.split(_BEGIN)
    after = rest[rest.index(_END) :]
    wanted = f"{before}{_BEGIN}{figures()}{after}"
    if "--check" in sys.argv[1:]:
        if text != wanted:
            sys.exit("the README's figures are not those of benchmarks/results: run benchmarks/figures.py")
        return
    readme.write_text(wanted)


if __name__ == "__main__":
    main()
