"""Long histories of small checkpoints: what looking, saving and gc are timed on when there are many commits.

    python benchmarks/histories.py [COMMITS]...

Each commit goes through a save of its own and has one component of 20 tensors in 200 chunks of 1 KiB of noise: half of
them never change, the other half is new every time. 10,000 commits are 10^6 chunks, 20,000 packs and 1.3 GB. Each
history is written once under `$XDG_CACHE_HOME/ckstore-benchmarks`; later calls find it there.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import TYPE_CHECKING

from workloads import cache

from ckstore.codec.preset import FAST
from ckstore.digest import Kind
from ckstore.objects.commit import Commit, Component, Metric
from ckstore.objects.encoding import encode, float_bits
from ckstore.objects.tree import Dict, Entry, Tensor, Tree, Whole
from ckstore.porcelain.init import init
from ckstore.repository import Repository, open_repository
from ckstore.storage.layout import FORMAT
from ckstore.storage.piece import Piece
from ckstore.storage.record import RefMove
from ckstore.storage.transaction import Transaction

if TYPE_CHECKING:
    from pathlib import Path

LONG = 10_000
SHORT = 100
STEPS = 10
"""Training steps between two commits."""

_CHUNK = 1 << 10
_CHUNKS = 10
_FROZEN = 10
_TRAINED = 10
_SPACING_NS = 60 * 10**9
_DONE = "done"


def history(commits: int) -> Path:
    """The folder of a repository with that many commits; it is written if it is not there yet."""
    folder = cache() / f"history-{FORMAT}-{commits}"
    if not (folder / _DONE).exists():
        shutil.rmtree(folder, ignore_errors=True)
        init(folder)
        with open_repository(folder, cache() / "indexes", threads=1) as repository:
            _write(repository, commits)
        (folder / _DONE).touch()
    return folder


def _write(repository: Repository, commits: int) -> None:
    frozen = [os.urandom(_CHUNK * _CHUNKS) for _ in range(_FROZEN)]
    began_ns = time.time_ns() - commits * _SPACING_NS
    tip: bytes | None = None
    for number in range(commits):
        with Transaction(repository.store, FAST) as transaction:
            tensors = [*frozen, *(os.urandom(_CHUNK * _CHUNKS) for _ in range(_TRAINED))]
            entries = [Entry(None, Dict("dict", len(tensors)))]
            entries += [_entry(transaction, place, data) for place, data in enumerate(tensors)]
            tree = transaction.put_meta(Kind.TREE, encode(Tree(_CHUNK, (), tuple(entries))))
            commit = Commit(
                components=(Component("model", tree),),
                parents=() if tip is None else (tip,),
                time_ns=began_ns + number * _SPACING_NS,
                offset_min=0,
                author="bench",
                message=f"step {number * STEPS}",
                metrics=(Metric("val/loss", float_bits(3 / (1 + number) + number % 7 / 100)),),
                step=number * STEPS,
            )
            id = transaction.put_meta(Kind.COMMIT, encode(commit))
            transaction.publish("commit", time.time_ns(), [RefMove("heads/main", tip, id)])
        tip = id
        if number % 1000 == 999:
            print(f"{number + 1} commits", file=sys.stderr, flush=True)


def _entry(transaction: Transaction, place: int, data: bytes) -> Entry:
    view = memoryview(data)
    pieces = [
        Piece(lambda at=at: view[at : at + _CHUNK], "model", tensor=place)  # type: ignore[misc]
        for at in range(0, len(data), _CHUNK)
    ]
    ids = b"".join(transaction.put(Kind.CHUNK, piece) for piece in pieces)
    return Entry(f"layer{place}", Tensor("uint8", (len(data),), None, 0, Whole(len(data), ids), 0))


if __name__ == "__main__":
    for asked in sys.argv[1:] or (str(SHORT), str(LONG)):
        print(history(int(asked)))
