"""Makes a golden repository with the ckstore at hand: `python tests/format/make_golden.py FOLDER`.

It has a little of everything: every dtype, containers, leaves, files of each kind, chains of deltas under each preset,
branches, tags, a detached history, undone moves; from format 1 on also holes, condemned packs, pins and packs that were
written anew. What must be read back is written beside it, to FOLDER/expected.json. Golden repositories are never made
anew: a new format gets a new one.
"""

from __future__ import annotations

import collections
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3

import ckstore

NOW_S = 1_760_000_000


def run(step: int) -> dict[str, Any]:
    """The state of a short run: weights that move a little, moments that move more, a fixed part."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(96, 100, generator=generator) * 0.02
    fixed = torch.randn(70, 70, generator=generator)
    for _ in range(step):
        weight = weight + torch.randn(96, 100, generator=generator) * 1e-5
    return {
        "model": {"w": weight, "fixed": fixed, "half": weight.bfloat16()},
        "optimizer": {"step": torch.tensor(float(step))},
    }


def everything() -> dict[str, Any]:
    """Every dtype and container, a leaf of each kind."""
    numbers = torch.arange(48).reshape(6, 8)
    names = [
        "float64",
        "float32",
        "float16",
        "bfloat16",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint8",
        "bool",
        "complex64",
    ]
    tensors = {name: numbers.to(getattr(torch, name)) for name in names}
    weight = torch.arange(20_000, dtype=torch.float32).reshape(100, 200)
    return {
        "dtypes": tensors,
        "shared": {"w": weight, "tied": weight, "turned": weight.T, "part": weight[3:9, ::2]},
        "values": {
            "none": None, "true": True, "int": -5, "big": 1 << 100, "float": 0.1, "nan": float("nan"),
            "text": "a\u00e9", "long": "x" * 9000, "bytes": b"\x00\x01", "path": Path("a/b"),
            "tuple": (1, (2,)), "set": {3},
            "ordered": collections.OrderedDict(a=1), 7: [torch.float16, torch.device("cpu")],
        },
    }  # fmt: skip


def fingerprint(value: Any) -> Any:
    """A value as JSON: tensors by dtype, shape and the hash of their bytes."""
    if isinstance(value, torch.Tensor):
        raw = (
            value.contiguous().clone().view(torch.uint8) if value.dim() else value.clone().reshape(1).view(torch.uint8)
        )
        return [str(value.dtype), list(value.shape), blake3(raw.numpy().tobytes()).hexdigest()[:32]]
    if isinstance(value, dict):
        return {repr(key): fingerprint(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, *map(fingerprint, value)]
    return repr(value)


def expected(repo: ckstore.Repo) -> dict[str, Any]:
    """What must be read back: refs, and of every commit what it says and holds."""
    commits = {}
    for info in repo.log(all=True):
        said: dict[str, Any] = {
            "parents": list(info.parents), "step": info.step, "message": info.message, "metrics": dict(info.metrics),
            "components": list(info.components), "absent": sorted(getattr(info, "absent", ())),
        }  # fmt: skip
        if not said["absent"] and info.message != "files":
            said["state"] = fingerprint(repo[info.id].load())
        if info.message == "files":
            with tempfile.TemporaryDirectory() as folder:
                repo.checkout(info.id, Path(folder) / "out")
                said["files"] = {
                    str(path.relative_to(folder)): blake3(path.read_bytes()).hexdigest()
                    for path in sorted(Path(folder).rglob("*"))
                    if path.is_file()
                }
        commits[info.id] = said
    return {"branches": repo.branches, "tags": repo.tags, "head": repo.head, "commits": commits}


def make(folder: Path) -> None:
    """The repository in `folder`/repo and what must be read back from it."""
    os.environ |= {"CKSTORE_NOW": str(NOW_S), "CKSTORE_COMMIT_AUTHOR": "golden"}
    with ckstore.open(folder / "repo", threads=1) as repo:
        repo.commit(everything(), message="everything", metrics={"val/loss": 0.5, "nan": float("nan")}, step=1, epoch=2)
        for step in range(6):
            repo.commit(run(step), branch="run", step=step, message=f"run {step}", tag="v1" if step == 1 else None)
        for step in range(4):
            repo.commit(run(step), branch="plain", step=step, message=f"plain {step}", preset="archive")
        repo.commit(run(9), branch="raw", step=9, message="raw", preset="fast")
        with tempfile.TemporaryDirectory() as name:
            files = Path(name) / "model"
            (files / "sub").mkdir(parents=True)
            torch.save(run(2), files / "x.pt")
            torch.save(run(2)["model"], files / "old.pth", _use_new_zipfile_serialization=False)
            (files / "sub/notes.txt").write_text("opaque\n" * 50)
            repo.commit_files(files, branch="files", message="files")
        repo.branch("gone", "run~2")
        repo.delete_branch("gone", force=True)
        repo.undo()
        if hasattr(repo, "gc"):
            repo.pin("run~3")
            repo.gc({"run": "last=2 optimizer:last=1", "plain": "last=2"}, grace="7d", repack=True)
        (folder / "expected.json").write_text(json.dumps(expected(repo), indent=1) + "\n")
    index = folder / "repo/.ckstore/index"
    for path in [*index.iterdir(), *(folder / "repo/.ckstore").glob("*lock"), folder / "repo/.ckstore/reserve"]:
        path.unlink(missing_ok=True)  # a cache, and notes


if __name__ == "__main__":
    make(Path(sys.argv[1]))
