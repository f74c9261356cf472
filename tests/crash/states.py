"""States that a seed names, stored and read back without torch, so that a child starts in a tenth of a second."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, NamedTuple

from ckstore.checkpoint.store import CommitOptions, store
from ckstore.graph.history import ancestry
from ckstore.objects.draft import Draft, DraftTensor, Span, held
from ckstore.objects.leaf import Chunks
from ckstore.objects.plain import from_plain, to_leaf
from ckstore.objects.reader import read_blob, read_tree
from ckstore.objects.tree import Tensor, Whole
from ckstore.porcelain.gc import GcOptions, gc
from ckstore.progress import SILENT
from ckstore.storage import collector
from tests.crash.replaced import replaced

if TYPE_CHECKING:
    from ckstore.objects.commit import Commit
    from ckstore.objects.leaf import Blob
    from ckstore.porcelain.gc import GcResult
    from ckstore.repository import Repository

BRANCH = "main"
KEPT = 2
"""Commits of the branch that gc keeps here."""


class Shape(NamedTuple):
    """Bytes in the component `a`, which compresses, and in `b`, which does not and changes with every second seed.

    So many `floats` of `w` move a little with each seed, so that a chunk of them is kept against an older one.
    """

    a: int
    b: int
    floats: int = 0


SHAPES = {
    "tiny": Shape(1_000, 500),
    "small": Shape(6_000, 9_000),
    "large": Shape(300 << 10, 2 << 20),
    "chain": Shape(1_000, 6_000, 20_000),
}
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
    found: dict[str, object] = {"a": a, "b": b, "c": name.seed}
    return found | {"w": _floats(name.seed, sizes.floats)} if sizes.floats else found


def _floats(seed: int, count: int) -> bytes:
    import numpy as np  # only where there are any

    begin, way = (np.random.default_rng(number).standard_normal(count, np.float32) for number in (0, 1))
    return (begin + way * np.float32(seed % 1000 * 1e-5)).tobytes()


def _draft(name: str, value: object) -> Draft:
    """A component as a draft: `w` as a tensor, the others as leaves."""
    if name != "w":
        return Draft([(None, to_leaf(value))])  # type: ignore[list-item]
    assert isinstance(value, bytes)
    tensor = DraftTensor("float32", (len(value) // 4,), None, 0, 0, 0)
    return Draft([(None, tensor)], [Span(len(value), "float32", "", held(value))])


def collect(repository: Repository) -> GcResult:
    """gc, with all that it can do: drops what is older than the newest KEPT commits, repacks, removes at once."""
    options = GcOptions(time.time_ns(), {"": f"last={KEPT}"}, grace_ns=0, repack=True)
    with replaced(collector, "LONGEST_NAP_S", 0.0):  # nobody waits here
        return gc(repository, options)


def save(repository: Repository, name: Label) -> str:
    """Commit `state(name)` the way `commit_state` does, flattened without torch; the commit's id."""
    drafts = {key: _draft(key, value) for key, value in state(name).items()}
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

        if isinstance(entry.value, Tensor):
            assert isinstance(entry.value.data, Whole)
            found[component.name] = bytes(fetch(Chunks(entry.value.data.length, entry.value.data.ids)))
            continue
        found[component.name] = from_plain(entry.value, fetch)  # type: ignore[arg-type]
    return found


def history(repository: Repository) -> list[tuple[str, Commit]]:
    """The branch's commits, the newest first."""
    commits = repository.commits()
    tip = commits.branches.get(BRANCH)
    return [] if tip is None else [(id.hex(), commit) for id, commit in ancestry([tip], commits.read_commit)]
