"""What the save before left in memory spares hashing, and never a byte that is not what it was."""

from __future__ import annotations

import pytest
import torch

import ckstore
from ckstore.digest import object_id
from ckstore.storage.piece import Piece
from ckstore.storage.remembered import Remembered
from ckstore.train.commits import Committer, Request


@pytest.fixture
def repo(tmp_path: object) -> ckstore.Repo:
    return ckstore.open(str(tmp_path), threads=1)


class _Hashes:
    """Counts what is hashed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bytes = 0
        inner = object_id

        def counting(kind: object, data: memoryview) -> bytes:
            self.bytes += data.nbytes
            return inner(kind, data)  # type: ignore[arg-type]

        monkeypatch.setattr("ckstore.storage.transaction.object_id", counting)


def _commit(repo: ckstore.Repo, committer: Committer, state: dict[str, torch.Tensor]) -> str:
    options = repo._options("", None, None, None, None, None, None, None, False, None)
    save = committer.later(Request({"model": state}, options))
    committer.wait()
    assert committer.settle() is None
    return save.result().id


def test_what_did_not_change_is_compared_and_not_hashed(repo: ckstore.Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    committer = Committer(repo._repository, None, lambda _: None)
    state = {"frozen": torch.randn(1 << 20), "trained": torch.randn(1 << 20)}
    _commit(repo, committer, state)
    for step in range(4):
        state["trained"].add_(0.5)
        if step == 2:
            state["frozen"][-1] += 1  # the end of a chunk that begins as it was
        hashes = _Hashes(monkeypatch)
        id = _commit(repo, committer, state)
        monkeypatch.undo()
        assert hashes.bytes < (4 << 20) + 200_000 + (2 << 20 if step == 2 else 0)
        loaded = repo[id].load()["model"]
        assert all(torch.equal(loaded[name], state[name]) for name in state)
    committer.close()
    assert not repo.verify(read_data=True).findings


def test_a_commit_from_live_memory_forgets(repo: ckstore.Repo) -> None:
    committer = Committer(repo._repository, None, lambda _: None)
    state = {"weight": torch.randn(1 << 19)}
    for number in range(4):
        if number == 2:
            options = repo._options("", None, None, None, None, None, None, None, False, None)
            committer.now(Request({"model": state}, options))
        state["weight"].mul_(2)
        id = _commit(repo, committer, state)
        assert torch.equal(repo[id].load()["model"]["weight"], state["weight"])
    committer.close()


def test_ids_that_the_store_lost_are_stored_anew(repo: ckstore.Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk that is remembered, and that gc has taken away: it is hashed, and stored."""
    committer = Committer(repo._repository, None, lambda _: None)
    state = {"weight": torch.randn(1 << 19)}
    first = _commit(repo, committer, state)
    repo.branch("other")
    objects = repo._repository.store.objects
    monkeypatch.setattr(objects, "known", lambda ids: set())
    second = _commit(repo, committer, state)
    monkeypatch.undo()
    assert first != second
    assert torch.equal(repo[second].load()["model"]["weight"], state["weight"])
    committer.close()


def test_other_lengths_are_other_chunks() -> None:
    remembered = Remembered()
    piece = Piece(lambda: memoryview(b"abcd"), "", before=b"x" * 32)
    remembered.note(b"x" * 32, piece)
    remembered.turn()
    assert remembered.id_of(piece, memoryview(b"abcd"), lambda *_: True) == b"x" * 32
    assert remembered.id_of(piece, memoryview(b"abcd"), lambda *_: False) is None
    assert remembered.id_of(piece, memoryview(b"abcde"), lambda *_: True) is None
    assert remembered.id_of(piece._replace(before=None), memoryview(b"abcd"), lambda *_: True) is None
    remembered.forget()
    assert remembered.id_of(piece, memoryview(b"abcd"), lambda *_: True) is None
