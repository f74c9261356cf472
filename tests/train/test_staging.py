"""Snapshots in host memory: exact where nobody wrote to what was being copied, and found torn where someone did."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import ckstore
from ckstore.errors import SaveFailed
from ckstore.torch.flatten import flatten
from ckstore.torch.staging import LEAST_LATER, Staging, place_of
from tests.train.trainings import Small, same

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckstore.torch.staging import Place, Snapshot

LARGE = 600, 500


def drafts(state: dict[str, Any]) -> dict[str, Any]:
    return {name: flatten(value, name) for name, value in state.items()}


def places(*tensors: torch.Tensor) -> set[Place]:
    return {place_of(tensor) for tensor in tensors}


def held(snapshot: Snapshot) -> dict[str, bytes]:
    """The bytes of a snapshot's spans."""
    return {
        f"{name}.{span.path}": bytes(span.open(0, span.length))
        for name, draft in snapshot.drafts.items()
        for span in draft.spans
    }


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.detach().reshape(-1).view(torch.uint8).numpy().tobytes()


def test_a_copy_at_once_is_whole() -> None:
    weight = torch.randn(LARGE)
    before = raw(weight)
    snapshot = Staging().take(drafts({"model": {"weight": weight}}))
    assert snapshot.whole
    weight.zero_()
    snapshot.finish()
    assert snapshot.torn() == []
    assert held(snapshot) == {"model.weight": before}


def test_only_places_given_are_copied_later() -> None:
    """What is small, and what lies elsewhere, is copied at once: whoever writes to it afterwards tears nothing."""
    later, at_once, small = torch.randn(LARGE), torch.randn(LARGE), torch.randn(LEAST_LATER // 4 - 1)
    before = {"a.later": raw(later), "a.now": raw(at_once), "a.small": raw(small)}
    state = {"a": {"later": later, "now": at_once, "small": small}}
    snapshot = Staging().take(drafts(state), places(later, small))
    assert not snapshot.whole
    at_once.add_(1)
    small.add_(1)
    snapshot.finish()
    assert snapshot.torn() == []
    assert held(snapshot) == before


def _by_data(weight: torch.Tensor) -> None:
    weight.data.add_(1)


def _by_numpy(weight: torch.Tensor) -> None:
    array = weight.detach().numpy()
    array *= 2


def _by_fused_optimizer(weight: torch.Tensor) -> None:
    weight.grad = torch.ones_like(weight)
    torch.optim.AdamW([weight], lr=1.0, fused=True).step()


@pytest.mark.parametrize("write", [_by_data, _by_numpy, _by_fused_optimizer])
def test_what_versions_do_not_see_tears(write: Callable[[torch.Tensor], None]) -> None:
    weight, other = torch.nn.Parameter(torch.randn(LARGE)), torch.nn.Parameter(torch.randn(LARGE))
    version = weight._version
    state = {"model": {"one": other, "two": weight}}
    snapshot = Staging().take(drafts(state), places(weight, other))
    write(weight)
    assert weight._version == version
    snapshot.finish()
    assert [one.path for one in snapshot.torn()] == ["model.two"]
    assert [one.place for one in snapshot.torn()] == [place_of(weight)]


@pytest.mark.parametrize("first", range(0, 64, 9))
def test_a_write_to_one_block_is_found_in_time(first: int) -> None:
    """A sample is one block in 64, another one each time: of 64 snapshots one finds a write to one block."""
    weight = torch.zeros(64 * 4096, dtype=torch.uint8)
    staging = Staging()
    found = 0
    for _ in range(64):
        snapshot = staging.take(drafts({"model": {"weight": weight}}), places(weight))
        weight[first * 4096 : (first + 1) * 4096] += 1
        snapshot.finish()
        found += bool(snapshot.torn())
    assert found == 1


@pytest.mark.parametrize("extra", [0, 1, 4095, 4096, 4097, 63 * 4096 + 5])
def test_every_length_has_samples_at_its_end(extra: int) -> None:
    """What is left after whole stretches is looked at, too."""
    weight = torch.zeros(2 * 64 * 4096 + extra, dtype=torch.uint8)
    snapshot = Staging().take(drafts({"a": {"w": weight}}), places(weight))
    weight[2 * 64 * 4096 :] += 1
    snapshot.finish()
    assert bool(snapshot.torn()) == bool(extra)


def test_nan_and_minus_zero_are_bytes_like_others() -> None:
    weight = torch.full(LARGE, torch.nan)
    snapshot = Staging().take(drafts({"a": {"w": weight}}), places(weight))
    snapshot.finish()
    assert snapshot.torn() == []
    weight.zero_()
    snapshot = Staging().take(drafts({"a": {"w": weight}}), places(weight))
    weight.neg_()
    snapshot.finish()
    assert len(snapshot.torn()) == 1


def test_strided_shared_and_blobs_come_over() -> None:
    """Views of one storage, tied weights, arrays, bytes, generators: committed from the copy, as from the state."""
    base = torch.randn(40, 50)
    state: dict[str, Any] = {
        "a": {"whole": base, "turned": base.t(), "part": base[3:7, ::2], "bits": torch.randn(5) > 0},
        "b": [base, np.arange(20_000.0), b"bytes" * 20_000, torch.Generator().manual_seed(3), {"n": 3, "t": None}],
        "c": {"empty": torch.empty(0, 3), "one": torch.tensor(2.5), "half": torch.randn(9, 9).bfloat16()},
    }
    snapshot = Staging().take(drafts(state), places(base))
    snapshot.finish()
    whole, copied = drafts(state), snapshot.drafts
    assert whole.keys() == copied.keys()
    for name in whole:
        assert [bytes(span.open(0, span.length)) for span in copied[name].spans] == [
            bytes(span.open(0, span.length)) for span in whole[name].spans
        ]
        assert len(copied[name].entries) == len(whole[name].entries)


def test_two_buffers_by_turns_and_no_more() -> None:
    weight = torch.randn(LARGE)
    staging, addresses = Staging(), []
    for number in range(6):
        weight.fill_(number)
        snapshot = staging.take(drafts({"a": {"w": weight}}), places(weight))
        snapshot.finish()
        span = snapshot.drafts["a"].spans[0]
        addresses.append(np.frombuffer(span.open(0, 8), np.uint8).ctypes.data)
        assert held(snapshot) == {"a.w": raw(weight)}
    assert addresses[0::2] == [addresses[0]] * 3
    assert addresses[1::2] == [addresses[1]] * 3
    assert addresses[0] != addresses[1]
    assert 2 * weight.nbytes <= staging.size_bytes <= 2 * weight.nbytes + 256


def test_the_snapshot_before_stays_as_it_was() -> None:
    """One snapshot may still be being stored while the next is taken."""
    weight = torch.randn(LARGE)
    staging = Staging()
    first = staging.take(drafts({"a": {"w": weight}}))
    before = raw(weight)
    weight.zero_()
    staging.take(drafts({"a": {"w": weight}})).finish()
    assert held(first) == {"a.w": before}


def test_a_state_that_grows_and_shrinks() -> None:
    staging = Staging()
    for size in (10, 1000, 100, 5000, 1):
        weight = torch.randn(size)
        snapshot = staging.take(drafts({"a": {"w": weight}}))
        assert held(snapshot) == {"a.w": raw(weight)}
    assert staging.size_bytes < 30_000


def test_whoever_waits_helps() -> None:
    """Pieces are shared out: each byte is copied by one thread, and both return only when all of it is there."""
    weight = torch.randn(10 << 20)
    snapshot = Staging().take(drafts({"a": {"w": weight}}), places(weight))
    other = threading.Thread(target=snapshot.finish)
    other.start()
    snapshot.hold_up()
    assert snapshot.whole
    weight.zero_()
    other.join(10)
    assert not other.is_alive()
    assert snapshot.torn() == []


class Stopped(BaseException):
    pass


class Stopping:
    """A lock that raises in the thread that is told to stop, in the middle of its copying; once."""

    def __init__(self, ident: int) -> None:
        self._lock = threading.Lock()
        self._ident = ident
        self.left = 3

    def __enter__(self) -> None:
        if threading.get_ident() == self._ident:
            self.left -= 1
            if not self.left:
                raise Stopped
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_one_who_is_stopped_in_mid_copy_holds_nobody_up() -> None:
    """Ctrl-C in the training's share of a copy: the background must not wait for a piece that never comes."""
    weight = torch.zeros(8 << 20)
    snapshot = Staging().take(drafts({"a": {"w": weight}}), places(weight))
    snapshot._lock = Stopping(threading.get_ident())  # type: ignore[assignment]
    with pytest.raises(Stopped):
        snapshot.hold_up()
    raised: list[BaseException] = []

    def finish() -> None:
        try:
            snapshot.finish()
        except SaveFailed as error:
            raised.append(error)

    other = threading.Thread(target=finish, daemon=True)
    other.start()
    other.join(10)
    assert not other.is_alive()
    assert len(raised) == 1
    snapshot.hold_up()  # the training may go on, and write


def test_no_memory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated: a test must not take all memory there is."""

    def no_memory(*_: object, **__: object) -> torch.Tensor:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory")

    made = drafts({"a": {"w": torch.zeros(10)}})
    monkeypatch.setattr(torch, "empty", no_memory)
    with pytest.raises(ckstore.errors.InvalidInput, match="block=True"):
        Staging().take(made)


def test_nothing_of_the_state_is_held_on_to(repo: ckstore.Repo) -> None:
    """Once a commit is durable and the next step has begun, gradients and extra tensors are the caller's alone."""
    small = Small(width=300)
    with repo.track("run", **small.parts) as run:
        run.resume()
        batch = next(iter(small.loader))
        small.step(batch)
        run.step()
        extra = torch.randn(LARGE)
        run.commit(extra={"extra": {"it": extra}}).result()
        run.wait()
        small.step(batch)
        seen = weakref.ref(extra), weakref.ref(small.large.grad)
        del extra
        small.optimizer.zero_grad()
        gc.collect()
        assert [one() for one in seen] == [None, None]


def test_what_is_committed_is_the_state_at_that_step(repo: ckstore.Repo) -> None:
    """Training goes on at once; what the optimizer changes is still being copied."""
    small = Small(width=700)
    kept: dict[int, Any] = {}
    with repo.track("run", **small.parts, every=ckstore.steps(1), busy="wait", at_end=False) as run:
        for step, batch in run.resume(small.loader):
            small.step(batch)
            kept[step] = copy.deepcopy(small.state())
            run.step()
            if step == 5:
                break
    for info in repo.log("run"):
        state = repo[info.id].load(["model.*", "optimizer.*"])
        assert same(state, kept[info.step or 0]), f"step {info.step}"
    assert len(repo.log("run")) == 5
