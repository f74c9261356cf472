"""Mutated checkpoint files through scan and commit: `python benchmarks/fuzz_files.py [--files N] [--only FORMAT...]`.

For each format a small file (for folders: one file of a small folder, the rest as it was) is changed at random N times:
flipped, cut, doubled, moved and overwritten bytes. Each must be refused with a typed error that has a hint, by scan and
commit alike, or be committed and come back byte for byte. Files hold a pickle that makes a canary file if anything ever
runs it. A failure prints the seed that makes it again.
"""

from __future__ import annotations

import argparse
import collections
import os
import pickle
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

import ckstore
from ckstore.checkpoint.committed_files import committed_files
from ckstore.errors import CkstoreError, Format, InvalidInput
from ckstore.porcelain.scan import ScanOptions, scan

if TYPE_CHECKING:
    from collections.abc import Callable

BATCH = 250
"""Files between two scans, and in one repository."""


class Canary:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def state() -> dict[str, Any]:
    torch.manual_seed(0)
    weight = torch.randn(40, 30)
    return {
        "model": {"w": weight, "tied": weight, "b": torch.zeros(7, dtype=torch.bfloat16), "view": weight.T[3:9]},
        "optimizer": {
            "state": {0: {"exp_avg": torch.randn(40, 30), "step": torch.tensor(3.0)}},
            "param_groups": [{"lr": 0.1}],
        },
        "epoch": 3,
        "rng": torch.get_rng_state()[:64],
    }


def make_pt(folder: Path, canary: Path) -> Path:
    torch.save(state(), folder / "x.pt")
    return folder / "x.pt"


def make_hostile_pt(folder: Path, canary: Path) -> Path:
    torch.save({**state(), "hook": Canary(canary)}, folder / "x.ckpt")
    return folder / "x.ckpt"


def make_legacy(folder: Path, canary: Path) -> Path:
    torch.save(state(), folder / "x.pth", _use_new_zipfile_serialization=False)
    return folder / "x.pth"


def make_safetensors(folder: Path, canary: Path) -> Path:
    tensors = {"w": torch.randn(40, 30), "b": torch.zeros(7, dtype=torch.bfloat16), "empty": torch.zeros(0)}
    save_file(tensors, folder / "x.safetensors", metadata={"format": "pt"})
    return folder / "x.safetensors"


def make_gguf(folder: Path, canary: Path) -> Path:
    import numpy
    from gguf import GGUFWriter

    writer = GGUFWriter(folder / "x.gguf", "llama")
    writer.add_uint32("llama.block_count", 2)
    writer.add_array("tokens", ["a", "b"])
    writer.add_tensor("w", numpy.random.default_rng(0).standard_normal((20, 32)).astype("float32"))
    writer.add_tensor("v", numpy.zeros((4, 32), dtype="float16"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / "x.gguf"


def make_dcp(folder: Path, canary: Path) -> Path:
    dcp_save(state(), storage_writer=FileSystemWriter(folder), no_dist=True)
    return folder / ".metadata"


def make_shard(folder: Path, canary: Path) -> Path:
    for number in (1, 2):
        tensors = {f"layer{number}.w": torch.randn(20, 30), f"layer{number}.b": torch.zeros(20)}
        save_file(tensors, folder / f"model-0000{number}-of-00002.safetensors")
    (folder / "config.json").write_text("{}")
    torch.save({"hook": Canary(canary)}, folder / "training_args.bin")
    return folder / "model-00001-of-00002.safetensors"


FORMATS: dict[str, Callable[[Path, Path], Path]] = {
    "pt": make_pt,
    "hostile": make_hostile_pt,
    "legacy": make_legacy,
    "safetensors": make_safetensors,
    "gguf": make_gguf,
    "dcp": make_dcp,
    "shards": make_shard,
}


def mutated(data: bytes, rng: random.Random) -> bytes:
    """`data` after one to three changes; half of them in its first or last KiB, where headers and directories are."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if not out:
            break
        edge = min(len(out), 1024)
        at = rng.choice((rng.randrange(len(out)), rng.randrange(edge), len(out) - 1 - rng.randrange(edge)))
        match rng.randrange(6):
            case 0:
                out[at] ^= 1 << rng.randrange(8)
            case 1:
                out[at] = rng.randrange(256)
            case 2:
                del out[at : at + rng.choice((1, 2, 8, 100, len(out)))]
            case 3:
                out[at:at] = out[at : at + rng.choice((1, 4, 40))]
            case 4:
                out[at : at + 8] = rng.choice((b"\xff" * 8, b"\0" * 8, (1 << 62).to_bytes(8, "little"), b"\x7f" * 8))
            case 5:
                start = rng.randrange(len(out))
                piece = out[start : start + rng.choice((4, 16, 64))]
                out[at : at + len(piece)] = piece
    return bytes(out)


class Fuzzer:
    """One format: its folder as it was, and what became of its mutants."""

    def __init__(self, name: str, scratch: Path) -> None:
        self.name = name
        self.outcomes: collections.Counter[str] = collections.Counter()
        self._scratch = scratch
        self._canary = scratch / "canary"
        whole = scratch / "whole"
        whole.mkdir()
        self._changed = FORMATS[name](whole, self._canary)
        self._original = {path.name: path.read_bytes() for path in whole.iterdir()}

    def batch(self, seeds: range) -> None:
        """Mutants of `seeds`: scanned together, then committed and brought back one by one."""
        folders = []
        for seed in seeds:
            folder = self._scratch / f"{self.name}-{seed}"
            folder.mkdir()
            for name, data in self._original.items():
                changed = name == self._changed.name or (self.name == "dcp" and seed % 2)
                (folder / name).write_bytes(mutated(data, random.Random(f"{self.name} {seed}")) if changed else data)
            folders.append(folder)
        result = scan(ScanOptions(folders, threads=1))
        told = {name for name, _ in result.damaged}
        with (
            tempfile.TemporaryDirectory(dir=self._scratch) as place,
            ckstore.open(place, threads=1, preset="fast") as repo,
        ):
            refused = sum(self._commit(repo, folder, seed) for seed, folder in zip(seeds, folders, strict=True))
        if len(result.damaged) < refused:
            raise AssertionError(f"scan told of {len(told)} damaged files, commit of {refused}: seeds {seeds}")
        if self._canary.exists():
            raise AssertionError(f"something was run: seeds {seeds}")

    def _commit(self, repo: ckstore.Repo, folder: Path, seed: int) -> bool:
        """Whether the commit was refused."""
        alone = len(self._original) == 1
        try:
            made = repo.commit_files(folder / self._changed.name if alone else folder)
        except (Format, InvalidInput) as error:
            if not error.hint:
                raise AssertionError(f"{self.name} {seed}: no hint in {error}") from error
            self.outcomes["refused"] += 1
            return True
        except CkstoreError as error:
            raise AssertionError(f"{self.name} {seed}: {error}") from error
        finally:
            kept = {path.name: path.read_bytes() for path in folder.iterdir()}
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
        commit = repo._repository.commits().read_commit(bytes.fromhex(made.id))
        held = committed_files(repo._repository, commit)
        assert held is not None
        for name in held.files:
            if b"".join(bytes(view) for view in held.read(name)) != kept[name]:
                raise AssertionError(f"{self.name} {seed}: {name} does not come back")
        self.outcomes["read" if len(commit.components) > 1 else "opaque"] += 1
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000, help="mutants of each format")
    parser.add_argument("--only", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    chosen = parser.parse_args()
    pickle.dumps(Canary(Path("x")))
    for name in chosen.only:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="ckstore-fuzz-", dir="/dev/shm") as scratch:
            fuzzer = Fuzzer(name, Path(scratch))
            for first in range(chosen.first, chosen.first + chosen.files, BATCH):
                fuzzer.batch(range(first, min(first + BATCH, chosen.first + chosen.files)))
        counts = ", ".join(f"{count} {what}" for what, count in sorted(fuzzer.outcomes.items()))
        print(f"{name}: {chosen.files} mutants: {counts}; {time.perf_counter() - began:.0f} s", flush=True)
    sys.exit(0)


if __name__ == "__main__":
    main()
