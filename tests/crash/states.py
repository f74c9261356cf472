"""States that a seed names, stored and read back without torch, so that a child starts in a tenth of a second."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, NamedTuple

from ckstore.checkpoint.store import CommitOptions, store
from ckstore.graph.history import ancestry
from ckstore.objects.draft import Draft
from ckstore.objects.plain import from_plain, to_leaf
from ckstore.objects.reader import read_blob, read_tree
from ckstore.progress import SILENT

if TYPE_CHECKING:
    from ckstore.objects.commit import Commit
    from ckstore.objects.leaf import Blob
    from ckstore.repository import Repository

BRANCH = "main"


class Shape(NamedTuple):
    """Bytes in the component `a`, which compresses, and in `b`, which does not and changes with every second seed."""

    a: int
    b: int


SHAPES = {"tiny": Shape(1_000, 500), "small": Shape(6_000, 9_000), "large": Shape(300 << 10, 2 << 20)}
"""A tiny state has no chunks: all of it is in its trees."""


class Label(NamedTuple):
    """What a commit's message says: its state is `state(shape, seed)`."""

    shape: str
    seed: int

    def __str__(self) -> str:
        return f"{self.shape} {self.seed}"


def label(message: str) -> Label:
    shape, seed = message.split(" ")
    return Label(shape, int(seed))


def state(name: Label) -> dict[str, object]:
    """The state a label stands for: the same in every process."""
    sizes = SHAPES[name.shape]
    a = random.Random(f"a {name.seed}").randbytes(1000) * (sizes.a // 1000)
    b = random.Random(f"b {name.seed // 2}").randbytes(sizes.b)
    return {"a": a, "b": b, "c": name.seed}


def save(repository: Repository, name: Label) -> str:
    """Commit `state(name)` the way `commit_state` does, flattened without torch; the commit's id."""
    drafts = {key: Draft([(None, to_leaf(value))]) for key, value in state(name).items()}  # type: ignore[list-item]
    options = CommitOptions(time_ns=name.seed, message=str(name), branch=BRANCH, step=name.seed)
    return store(repository, drafts, options, SILENT, bare=False).id


def read(repository: Repository, commit: Commit) -> dict[str, object]:
    """The state a commit holds, every byte hashed on the way. Raises `Integrity`."""
    objects = repository.store.objects
    found: dict[str, object] = {}
    for component in commit.components:
        tree = read_tree(objects, component.tree)
        (entry,) = tree.entries

        def fetch(blob: Blob, chunk_size: int = tree.chunk_size) -> bytes | bytearray:
            return read_blob(objects, blob, chunk_size)

        found[component.name] = from_plain(entry.value, fetch)  # type: ignore[arg-type]
    return found


def history(repository: Repository) -> list[tuple[str, Commit]]:
    """The branch's commits, the newest first."""
    commits = repository.commits()
    tip = commits.branches.get(BRANCH)
    return [] if tip is None else [(id.hex(), commit) for id, commit in ancestry([tip], commits.read_commit)]
