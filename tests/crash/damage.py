"""What may happen to a file of a repository behind its back, by name, so that one line says how to do it again."""

from __future__ import annotations

import os
import random
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

from ckstore.porcelain.init import init
from ckstore.porcelain.verify import verify
from ckstore.repository import open_repository
from ckstore.storage import store as storage
from tests.crash.replaced import replaced
from tests.crash.states import BRANCH, SHAPES, Label, Shape, collect, save

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

STEP = 512
FLIP, CUT, EXTEND, ZERO, DOUBLE, LOSE = "flip", "cut", "extend", "zero", "double", "lose"
STEPPED = (CUT, EXTEND, ZERO)
"""What is done at steps of so many bytes; a file is doubled and lost once."""


class Damage(NamedTuple):
    """One file of `.ckstore`, what happens to it, and where: at which bit (flip) or byte."""

    file: str
    how: str
    at: int

    def __str__(self) -> str:
        return f"{self.how} {self.file} {self.at}"

    @property
    def is_of_index(self) -> bool:
        return self.file.startswith("index/")

    @property
    def is_of_data(self) -> bool:
        return self.file.startswith(("packs/", "journal/"))

    def do(self, root: Path) -> bool:
        """Do it to the repository whose `.ckstore` folder is `root`; whether the file's bytes are others now."""
        path = root / self.file
        before = path.read_bytes()
        if self.how == LOSE:
            path.unlink()
            return True
        after = bytearray(before)
        if self.how == FLIP:
            after[self.at // 8] ^= 1 << self.at % 8
        elif self.how == CUT:
            del after[self.at :]
        elif self.how == EXTEND:
            after += bytes(self.at)
        elif self.how == DOUBLE:
            after += before
        else:
            stop = min(self.at + STEP, len(before))
            after[self.at : stop] = bytes(stop - self.at)
        path.write_bytes(after)
        return bytes(after) != before


def parsed(line: str) -> Damage:
    """The damage that `str` of it says."""
    how, file, at = line.split()
    return Damage(file, how, int(at))


def files(root: Path) -> dict[str, int]:
    """The files of a `.ckstore` folder, and the bytes they have. Those of the user's settings apart."""
    found = {
        path.relative_to(root).as_posix(): path.stat().st_size for path in sorted(root.rglob("*")) if path.is_file()
    }
    return {name: size for name, size in found.items() if name != "config.toml"}


def flips(sizes: dict[str, int], count: int, rng: random.Random) -> Iterator[Damage]:
    """`count` bits to flip: a random one of a random file, so that small files get their share."""
    names = [name for name, size in sizes.items() if size]
    for _ in range(count):
        name = rng.choice(names)
        yield Damage(name, FLIP, rng.randrange(8 * sizes[name]))


def every_flip(sizes: dict[str, int]) -> Iterator[Damage]:
    """Every bit of every file."""
    return (Damage(name, FLIP, bit) for name, size in sizes.items() for bit in range(8 * size))


def steps(sizes: dict[str, int]) -> list[Damage]:
    """Every file cut, lengthened, and zeroed at every step; doubled; lost."""
    found = []
    for name, size in sizes.items():
        for how in STEPPED:
            places = range(STEP, size + 1, STEP) if how == EXTEND else range(0, size, STEP)
            found += [Damage(name, how, at) for at in places]
        found += [Damage(name, how, 0) for how in (DOUBLE, LOSE)]
    return found


def prepare(folder: Path, shapes: Sequence[str] = ("chain", "small")) -> None:
    """A repository with everything that can be damaged: chains, trees, several packs and segments, a gc done before.

    Files have the same names and sizes each time.
    """
    SHAPES.setdefault("short", Shape(1_000, 500, 3_000))
    with ExitStack() as stack:
        stack.enter_context(replaced(os, "urandom", random.Random(0).randbytes))
        stack.enter_context(replaced(storage, "ROTATE_SIZE", 0))
        init(folder, BRANCH)
        repository = stack.enter_context(open_repository(folder, folder.with_name("cache"), threads=1))
        for seed in range(9):
            if seed == 3:
                collect(repository)
            save(repository, Label(shapes[seed % len(shapes)], seed))
        verify(repository, read_data=True, now_ns=1)
