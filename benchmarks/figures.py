"""Writes the documents' figures from benchmarks/results/: `python benchmarks/figures.py [--check]`.

A document has them between `<!-- figures: NAME, written by benchmarks/figures.py -->` and `<!-- end of figures -->`.
`--check` changes nothing and fails where a document says something else than the results.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
DOCUMENTS = (
    "README.md",
    "docs/architecture.md",
    "docs/durability.md",
    *(f"docs/guides/{name}.md" for name in ("codecs", "checkpoint-files", "retention", "training-runs")),
)
_BLOCK = re.compile(
    r"(<!-- figures: (\w+), written by benchmarks/figures.py -->\n).*?(<!-- end of figures -->\n)", re.DOTALL
)
_TITLES = {
    "pretrain": "dense fp32 + AdamW, 10 checkpoints",
    "bf16": "bf16 weights + fp32 moments, 8",
    "frozen": "frozen backbone, 10",
    "branches": "five fine-tunes of one base, on branches of their own",
    "embed": "sparse embedding + Adam, 10",
}
_STATES = {"dense": "dense fp32 + AdamW", "bf16": "bf16 weights + moments", "frozen": "frozen backbone"}


def results(name: str) -> dict[str, Any]:
    """The figures that a benchmark left."""
    read: dict[str, Any] = json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())
    return read


def table(head: str, rows: list[list[str]]) -> str:
    """A Markdown table; `head` is its first line."""
    rule = "|" + "---|" * (head.count("|") - 1)
    return "\n".join([head, rule, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def core() -> str:
    """What bench_core.py measured."""
    found = results("core")
    one, two = found["unchanged, 1 thread"], found["unchanged, 2 threads"]
    many, commands = found["10,000 tensors of 1 KiB"], found["commands"]
    checkout = found["checkout"]
    rows = [
        [
            "commit of an unchanged 1.26 GB state, 2 threads",
            f"{two['commit_s']:.2f} s, {two['added_bytes']:.0f} bytes added",
        ],
        ["... as a share of BLAKE3's own speed on the same threads", f"{two['share_of_blake3_speed']:.0%}"],
        ["... the same on 1 thread", f"{one['commit_s']:.2f} s, {one['share_of_blake3_speed']:.0%}"],
        [
            "first commit of 10,000 tensors of 1 KiB, against torch.save + fsync",
            f"{many['commit_s']:.2f} s, {many['ratio']:.2f}x",
        ],
        [
            f"memory a checkout of {checkout['state_bytes'] / 1e6:.0f} MB takes beyond the state itself",
            f"{checkout['extra_bytes'] / 1e6:.0f} MB",
        ],
        [
            "`ckstore --help` / `ckstore log -n 20` of 1,000 commits",
            f"{commands['help_s']:.2f} s / {commands['log_s']:.2f} s",
        ],
    ]
    return (
        "Medians of one run of `python benchmarks/bench_core.py` on two cores of a shared virtual machine;\n"
        "machines differ, ratios less so.\n\n" + table("| what | measured |", rows)
    )


def sizes() -> str:
    """raw / stored of the trajectories, in short."""
    found = results("store")["sizes"]
    rows = [
        [title, *(f"{found[name][preset]:.2f}x" for preset in ("balanced", "archive"))]
        for name, title in _TITLES.items()
    ]
    return (
        "Real training runs, every checkpoint committed one after another: raw bytes / stored bytes\n"
        "(`python benchmarks/bench_store.py`).\n\n" + table("| training run | balanced | archive |", rows)
    )


def bounds() -> str:
    """raw / stored of the trajectories beside their entropy."""
    found = results("store")["sizes"]
    columns = (
        "balanced",
        "balanced, as files",
        "archive",
        "fast",
        "entropy, each by itself",
        "entropy, with differences",
    )
    rows = [[title, *(f"{found[name][column]:.3f}" for column in columns)] for name, title in _TITLES.items()]
    return table(
        "| trajectory | balanced | the same as files | archive | fast | bound: by itself | bound: with differences |",
        rows,
    )


def times() -> str:
    """Saves and loads beside those of others."""
    found = results("store")
    rows = []
    for kind, title in _STATES.items():
        one = found[kind]
        for name in ("torch.save", "safetensors", "dcp", "balanced", "fast"):
            save, load = one["save"][name], one["load"][name]
            stored = one["stored / raw, later"].get(name)
            shown = "1.00" if stored is None else f"{stored:.2f}"
            against = f"{one['save / torch.save'][name]:.2f}x"
            rows.append([
                title if name == "torch.save" else "",
                f"{'ckstore, ' if name in ('balanced', 'fast') else ''}{name}",
                f"{save['s']:.2f} s", against, f"{save['cpu_s']:.2f} s", f"{load['s']:.2f} s", shown,
            ])  # fmt: skip
    head = "| state (1.2 GB) | saved with | until durable | against torch.save | CPU time | loaded in | stored / raw |"
    return table(head, rows)


def speed() -> str:
    """The bounds on time and memory, in short."""
    found = results("store")
    dense, bf16, frozen = (found[kind] for kind in ("dense", "bf16", "frozen"))
    first = {kind: found[kind]["first save"] for kind in _STATES}
    rows = [
        ["first commit, dense / bf16, against torch.save + fsync",
         " / ".join(f"{first[k]['balanced']['s'] / first[k]['torch.save']['s']:.2f}x" for k in ("dense", "bf16"))],
        ["later commits, dense / bf16 / frozen, against torch.save + fsync",
         " / ".join(f"{one['save / torch.save']['balanced']:.2f}x" for one in (dense, bf16, frozen))],
        ["`fast`, dense, against safetensors + fsync",
         f"{dense['save']['fast']['s'] / dense['save']['safetensors']['s']:.2f}x"],
        ["checkout, dense, against torch.load: no deltas / the deepest chain",
         f"{dense['depth-0 load / torch.load']:.2f}x / {dense['deepest load / torch.load']:.2f}x"],
        ["memory that a commit takes beyond the state, at most",
         f"{max(one['commit extra bytes'] for one in (dense, bf16, frozen)) / (1 << 20):.0f} MiB"],
        ["two threads against one, the quickest of nine each: new data / deltas, in memory",
         f"{found['scaling']['new, in memory']:.2f}x / {found['scaling']['delta, in memory']:.2f}x"],
        ["... on this disk", f"{found['scaling']['new']:.2f}x / {found['scaling']['delta']:.2f}x"],
    ]  # fmt: skip
    return (
        "Medians of one run of `python benchmarks/bench_store.py`, on two cores of a shared virtual machine with the\n"
        "passes over chunks [compiled](docs/decisions/0022-zstd-in-the-kernel.md).\n\n"
        + table("| what | measured |", rows)
    )


def scans() -> str:
    """The estimates of scan beside what commits took."""
    found = results("files")["scans"]
    rows = []
    for name, title in _TITLES.items():
        one = found[name]
        off, quarter, error = (
            f"{round(100 * one[key], 1) + 0.0:+.1f}%" for key in ("whole_off", "quarter_off", "quarter_error")
        )
        rows.append([
            title, f"{one['raw_bytes'] / one['real_bytes']:.2f}x", off, f"{quarter} (said: ±{error[1:]})",
            f"{one['whole_gb_s']:.2f} / {one['quarter_gb_s']:.2f} GB/s",
        ])  # fmt: skip
    head = "| training run | committed | estimate off by | from a quarter, off by | speed: all / a quarter |"
    return "`python benchmarks/bench_files.py`, two threads.\n\n" + table(head, rows)


def files() -> str:
    """Speed and memory of a large file."""
    found, shared = results("files")["speed"], results("files")["shared"]
    rows = []
    for name, one in found.items():
        rows.append([
            f"`.{name}`, {one['raw_bytes'] / 1e9:.1f} GB", f"{one['first_gb_s']:.2f} GB/s",
            f"{one['known_gb_s']:.2f} GB/s ({one['share_of_blake3']:.0%})",
            f"{one['anonymous_bytes'] / (1 << 20):.0f} MiB", f"{one['checkout_s'] / one['cp_fsync_s']:.2f}x",
        ])  # fmt: skip
    head = "| file | new data | known data (of BLAKE3's speed) | extra memory | checkout, against cp + fsync |"
    least = min(value for key, value in shared.items() if key != "tensor_bytes")
    return table(head, rows) + (
        f"\nA `.pt`, a legacy `.pt`, a `.safetensors` and an in-memory commit of one model share {least:.3%} of the"
        " tensors' bytes\nor more.\n"
    )


def gc() -> str:
    """What bench_gc.py measured."""
    rows = [
        [
            f"`{policy}`: {one['kept']:.0f} of {one['commits']:.0f} commits",
            f"{one['before_bytes'] / 1e6:,.0f} MB",
            f"{one['after_bytes'] / 1e6:,.1f} MB",
            f"{one['after_bytes'] / one['fresh_bytes']:.3f}x",
            f"{one['written_bytes'] / one['removed_bytes']:.1%}",
            f"{one['tip_before_s'] * 1e3:.0f} ms, {one['tip_after_s'] * 1e3:.0f} ms",
        ]
        for policy, one in results("gc").items()
    ]
    columns = (
        "before",
        "after",
        "of a fresh repository",
        "written, of what was removed",
        "loading the tip, before and after",
    )
    head = f"| after `gc --repack --grace 0` | {' | '.join(columns)} |"
    return table(head, rows)


def scale() -> str:
    """What long histories cost."""
    found = results("scale")
    commands, after, commit, opened = (found[name] for name in ("commands", "after gc", "commit", "open"))
    mark, gc = found["mark"], found["beside gc"]
    rows = [
        ["`status`", f"{commands['status_s']:.2f} s", f"{after['status_s']:.2f} s"],
        ["`log -n 20`", f"{commands['log_s']:.2f} s", f"{after['log_s']:.2f} s"],
        ["`list --where ... --sort val/loss`", f"{commands['list_s']:.2f} s", f"{after['list_s']:.2f} s"],
        ["`show best:val/loss:min`", f"{commands['best_s']:.2f} s", f"{after['best_s']:.2f} s"],
    ]  # fmt: skip
    return (
        "Medians of `python benchmarks/bench_scale.py`: 10,000 commits, 10^6 chunks, 20,000 packs; each command is a\n"
        f"whole process (`--help` takes {commands['help_s']:.2f} s).\n\n"
        + table("| command | 10,000 commits | after gc took 9,900 of them |", rows)
        + "\n"
        + table(
            "| what | measured |",
            [
                ["open: time, memory", f"{opened['open_s'] * 1e3:.0f} ms, {_mib(opened['open_extra_bytes'])}"],
                ["journal / index", f"{_mib(opened['journal_bytes'])} / {_mib(opened['index_bytes'])}"],
                [
                    "a commit of one changed tensor of 16, against one with 100 commits before it",
                    f"{commit['long_s'] * 1e3:.1f} ms, {commit['ratio']:.2f}x",
                ],
                [
                    "gc: packs read and everything marked; memory for that",
                    f"{mark['both_s']:.1f} s, {_mib(mark['both_extra_bytes'])}",
                ],
                ["gc: the whole plan for `last=3 every=1000`", f"{mark['plan_s']:.1f} s"],
                [
                    f"a commit while `gc --repack` takes {gc['gc_s']:.0f} s to drop nearly all of it",
                    f"{gc['longer_s'] * 1e3:.0f} ms longer, {gc['held_worst_s']:.2f} s at worst",
                ],
            ],
        )
    )


def training() -> str:
    """What saving costs a training."""
    found = results("training")
    ways, idle_us = found["ways"], found["step_without_commit_us"]
    rows = [
        [
            f"`{name}`" if name.startswith("dcp") else name,
            f"{one['held_s']:.2f} s",
            f"{one['held_copies']:.1f}x",
            f"{one['first_held_s']:.2f} s",
            f"{one['overhead_s']:.1f} s",
            f"{one['durable_s']:.1f} s",
        ]
        for name, one in ways.items()
    ]
    return (
        f"`python benchmarks/bench_training.py`: {found['state_bytes'] / 1e9:.2f} GB of state, steps of "
        f"{found['step_s']:.1f} s that keep all\n{found['threads']} cores busy; one copy of the state in memory takes "
        f"{found['copy_s']:.2f} s. Medians; `step()` without a commit takes {idle_us:.0f} µs.\n\n"
        + table("| saved with | loop held | in copies | the first time | longer in all | durable after |", rows)
    )


def remote() -> str:
    """What remotes cost."""
    found = results("remote")
    pushes, rates, tensor, restic = (found[name] for name in ("pushes", "rates", "tensor", "restic"))
    rows = [
        ["bytes an incremental push sends, against the frames of the new objects",
         f"{pushes['up / stored, worst']:.4f}x"],
        ["its requests beyond packs / requests of a push or fetch with nothing to do",
         f"{pushes['requests beyond packs, worst']:.0f} / {pushes['requests of an empty push']:.0f}"],
        ["root, segments, tables, trees and commits, against raw bytes", f"{pushes['metadata / raw'] * 100:.3f}%"],
        ["one tensor of 17 MB out of 1 GB, cold: bytes against its chunks' chains; bytes of the catalog besides",
         f"{tensor['read / chains']:.3f}x; {tensor['catalog_bytes'] / 1e6:.2f} MB; {tensor['requests']:.0f} requests"],
        [f"push of {rates['bytes'] / 1e6:.0f} MB on 4 threads, against plain boto3 uploads of the same packs",
         f"{rates['push rate / plain'] * 100:.0f}% of the rate, {rates['push_peak_bytes'] / 1e6:.0f} MB of memory"],
        ["clone of it, every byte decoded, hashed and synced, against plain downloads to files",
         f"{rates['clone rate / plain'] * 100:.0f}% of the rate, {rates['clone_peak_bytes'] / 1e6:.0f} MB"],
        [f"ten checkpoints of {restic['raw_bytes'] / 1e7:.0f} MB as files, committed and pushed, against restic 0.14",
         f"{restic['bytes / restic']:.2f}x the bytes, {restic['time / restic']:.2f}x the time"],
    ]  # fmt: skip
    earlier = "".join(
        f"; load {one['load before']:.1f} to {one['load after']:.1f}: push {one['push rate / plain'] * 100:.0f}%, clone"
        f" {one['clone rate / plain'] * 100:.0f}%, time against restic {one['time / restic']:.2f}x"
        for one in found.get("earlier runs", ())
    )
    load = found["load"]
    return (
        "The last run of `python -m benchmarks.bench_remote`: the tests' S3 server on the same two cores as the\n"
        f"client, load {load['before']:.1f} to {load['after']:.1f}{f'. Earlier runs{earlier}' if earlier else ''}.\n\n"
        + table("| what | measured |", rows)
    )


def durability() -> str:
    """What cuts left of saves made in several ways."""
    rows = []
    for name, one in results("durability")["ways"].items():
        mounts = one["power, by mount"]
        usual = mounts["defaults"]
        other = {key: sum(part[key] for mount, part in mounts.items() if mount != "defaults") for key in usual}
        cells = [f"{part['lost']} / {part['torn']} of {part['runs']}" for part in (one["kill"], usual, other)]
        rows.append([name if name == "ckstore" else f"`{name}`", *cells])
    head = "| saved with | `kill -9` | power cut, ext4 as it is mounted by default | ... mounted in other ways |"
    return "Lost / of these torn, of so many cuts.\n\n" + table(head, rows)


def _mib(size_bytes: float) -> str:
    return f"{size_bytes / (1 << 20):,.0f} MiB"


_FIGURES = {
    "gc": gc,
    "core": core,
    "sizes": sizes,
    "bounds": bounds,
    "times": times,
    "speed": speed,
    "scans": scans,
    "files": files,
    "scale": scale,
    "training": training,
    "remote": remote,
    "durability": durability,
}


def filled(text: str) -> str:
    """A document with its figures as they were measured."""
    return _BLOCK.sub(lambda block: f"{block[1]}{_FIGURES[block[2]]()}{block[3]}", text)


def main() -> None:
    """Put the figures between the documents' markers."""
    for name in DOCUMENTS:
        document = ROOT / name
        text = document.read_text()
        wanted = filled(text)
        if "--check" in sys.argv[1:] and text != wanted:
            sys.exit(f"the figures in {name} are not those of benchmarks/results: run benchmarks/figures.py")
        document.write_text(wanted)


if __name__ == "__main__":
    main()
