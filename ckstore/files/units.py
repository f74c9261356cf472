"""The checkpoints that lie in a folder: which files belong together."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from ckstore.errors import InvalidInput, NotFound
from ckstore.files.collect import REPOSITORY
from ckstore.files.dcp import METADATA
from ckstore.files.order import natural_key, series_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

OTHER = "other files"

_SUFFIXES = frozenset(
    {
        ".pt",
        ".pth",
        ".bin",
        ".ckpt",
        ".safetensors",
        ".gguf",
        ".npz",
        ".npy",
        ".pkl",
        ".h5",
        ".msgpack",
        ".tar",
        ".onnx",
    }
)
_MARKERS = {
    METADATA: "DCP folder",
    "trainer_state.json": "Trainer folder",
    "model.safetensors.index.json": "Hugging Face folder",
    "pytorch_model.bin.index.json": "Hugging Face folder",
    "random_states_0.pkl": "Accelerate folder",
}
_WEIGHTS = frozenset({"model.safetensors", "pytorch_model.bin", "adapter_model.safetensors"})
_SHARD = re.compile(r".+-\d{5}-of-\d{5}\.\w+")


@dataclass(frozen=True)
class Unit:
    """One checkpoint, or the files of a folder that are none: what and where it is, its files by their names in it."""

    name: str
    kind: str
    path: Path
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def alone(self) -> bool:
        """Whether it is a single file."""
        return self.kind.startswith(".")

    @property
    def series(self) -> str:
        """The same for all checkpoints of a run."""
        return series_of(self.name) if self.kind != OTHER else self.name


def units(root: Path) -> list[Unit]:
    """The checkpoints under `root`, those of a run together and in their order. Every file is in one, once.

    What is no regular file is passed over, and so are repositories. Raises `NotFound`, `InvalidInput`.
    """
    if not root.exists():
        raise NotFound(f"no folder {root}", hint="check the path")
    walk = _Walk()
    if root.is_dir():
        walk.folder(root, "", None, "")
    else:
        walk.file(root, root.name, None, "")
    return sorted(walk.found, key=lambda unit: (unit.series, natural_key(unit.name)))


class _Walk:
    def __init__(self) -> None:
        self.found: list[Unit] = []
        self._seen: set[tuple[int, int]] = set()

    def folder(self, path: Path, name: str, owner: Unit | None, prefix: str) -> None:
        """Take in a folder: what it holds goes to `owner`, under `prefix`, unless it is a checkpoint by itself."""
        about = path.stat()
        if (about.st_dev, about.st_ino) in self._seen:
            return
        self._seen.add((about.st_dev, about.st_ino))
        try:
            names = sorted(os.listdir(path), key=os.fsencode)
        except OSError as error:
            raise InvalidInput(f"cannot read the folder {path}: {error.strerror}") from error
        kind = _kind(names)
        if kind is not None:
            owner, prefix = Unit(name or path.name, kind, path), ""
            self.found.append(owner)
        others = Unit(f"{name}/*" if name else "*", OTHER, path)
        for inner in names:
            below = path / inner
            if below.is_dir():
                if inner != REPOSITORY:
                    self.folder(below, _joined(name, inner), owner, _joined(prefix, inner))
            elif owner is None and PurePosixPath(inner).suffix.lower() not in _SUFFIXES:
                self.file(below, inner, others, "")
            else:
                self.file(below, _joined(name, inner), owner, prefix)
        if others.files:
            self.found.append(others)

    def file(self, path: Path, name: str, owner: Unit | None, prefix: str) -> None:
        """Take in a file, once, whatever links lead to it."""
        try:
            about = path.stat()
        except OSError:
            return
        if not stat.S_ISREG(about.st_mode) or (about.st_dev, about.st_ino) in self._seen:
            return
        self._seen.add((about.st_dev, about.st_ino))
        if owner is None:
            self.found.append(Unit(name, PurePosixPath(name).suffix.lower() or ".", path, {path.name: path}))
        else:
            owner.files[_joined(prefix, path.name)] = path


def _kind(names: Iterable[str]) -> str | None:
    """What sort of checkpoint a folder with files of these names is; None where it is none by itself."""
    present = set(names)
    for marker, kind in _MARKERS.items():
        if marker in present:
            return kind
    if "config.json" in present and present & _WEIGHTS:
        return "Hugging Face folder"
    return "sharded model" if any(map(_SHARD.fullmatch, present)) else None


def _joined(above: str, name: str) -> str:
    return f"{above}/{name}" if above else name
