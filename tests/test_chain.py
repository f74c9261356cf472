"""Skip-delta chains: short, exact, rebuilt the same, and harmless when damaged or forged."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ckstore
from ckstore.codec.encoded import Codec
from ckstore.digest import NO_ID, Kind
from ckstore.errors import Integrity
from ckstore.pack.format import Frame
from ckstore.storage.chain import MAX_DEPTH, base_for
from ckstore.storage.index import Location

if TYPE_CHECKING:
    from collections.abc import Callable


def drift(steps: int, dtype: torch.dtype = torch.float32) -> list[dict[str, Any]]:
    """Successive versions of weights as training makes them: most bits stay."""
    torch.manual_seed(0)
    weight = torch.randn(700, 600) * 0.02
    small = torch.randn(900)
    versions = []
    for _ in range(steps):
        weight = weight + torch.randn(700, 600) * 1e-5
        small = small + torch.randn(900) * 1e-6
        versions.append({"model": {"w": weight.to(dtype), "b": small.clone()}})
    return versions


def locations(repo: ckstore.Repo) -> dict[bytes, Location]:
    """Every indexed object by id."""
    return {one.frame.id: one for one in repo._repository.store.ask(lambda view: list(view.locations()))}


def depth(one: Location, known: dict[bytes, Location]) -> int:
    """Deltas on the way to an object without a base."""
    return 0 if one.frame.base == NO_ID else 1 + depth(known[one.frame.base], known)


def same(loaded: Any, wanted: Any) -> bool:
    return all(torch.equal(loaded["model"][name], wanted["model"][name]) for name in ("w", "b"))


def test_many_versions_come_back_from_short_chains(repo: ckstore.Repo) -> None:
    versions = drift(20)
    sizes = [repo.commit(version, step=step).pack_bytes for step, version in enumerate(versions)]
    assert max(sizes[1:]) < 0.8 * sizes[0]
    for step, version in enumerate(versions):
        assert same(repo[f"step:{step}"].load(), version)
    known = locations(repo)
    deltas = [one for one in known.values() if one.frame.codec == Codec.DELTA]
    assert len(deltas) > 30
    for one in deltas:
        base = known[one.frame.base].frame
        assert base.version == one.frame.version & (one.frame.version - 1)
        assert depth(one, known) == one.frame.version.bit_count()
    assert repo.verify(read_data=True).ok


def test_bf16_shrinks_far_more(repo: ckstore.Repo) -> None:
    first, second = (repo.commit(version).pack_bytes for version in drift(2, torch.bfloat16))
    assert second < first / 4


def test_a_rebuilt_index_has_the_same_chains(repo: ckstore.Repo) -> None:
    for version in drift(9):
        repo.commit(version)
    before = locations(repo)
    repo.close()
    shutil.rmtree(repo.path / ".ckstore/index")
    with ckstore.open(repo.path) as again:
        assert locations(again) == before
        assert same(again["HEAD~3"].load(), drift(9)[5])


def test_a_branch_without_a_parent_finds_its_base(repo: ckstore.Repo) -> None:
    base, tune = drift(2, torch.bfloat16)
    repo.commit({"unlike": torch.randn(100, 100)}, branch="other")
    whole = repo.commit(base, branch="base").pack_bytes
    repo.commit({"model": {"x": torch.randn(50, 50)}}, branch="third")
    assert repo.commit(tune, branch="tune").pack_bytes < whole / 4
    assert repo["tune"].info.parents == ()
    assert same(repo["tune"].load(), tune)


def test_noise_and_other_shapes_get_no_base(repo: ckstore.Repo) -> None:
    repo.commit({"model": {"w": torch.randn(300, 300), "v": torch.randn(300, 300)}})
    repo.commit({"model": {"w": torch.randn(300, 300), "v": torch.randn(300, 301)}})
    repo.commit({"model": {"w": torch.randn(300, 300).double(), "v": torch.randint(0, 9, (300, 300))}})
    assert not [one for one in locations(repo).values() if one.frame.codec == Codec.DELTA]
    assert repo.verify(read_data=True).ok


def test_damage_to_a_base_is_seen_by_all_that_stand_on_it(repo: ckstore.Repo) -> None:
    versions = drift(5)
    for version in versions:
        repo.commit(version)
    first = repo["HEAD~4"]._commit
    (pack, offset), *_ = [
        (one.pack, one.offset + 96 + 1000)
        for one in locations(repo).values()
        if one.frame.raw_length > 1 << 19 and one.frame.version == 0
    ]
    path = repo.path / f".ckstore/packs/{pack.hex()}.pack"
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 4]))
    for back in range(5):
        with pytest.raises(Integrity):
            repo[f"HEAD~{back}"].load()
    affected = {one for finding in repo.verify(read_data=True).findings for one in finding.commits}
    assert len(affected) == 5
    assert first.parents == ()
    repo.commit(drift(6)[5])
    assert same(repo["HEAD"].load(), drift(6)[5])


def frame(version: int, base: bytes) -> Location:
    return Location(b"p" * 16, 40, Frame(Kind.CHUNK, Codec.DELTA, 4, version.to_bytes(32, "big"), 9, 9, base, version))


@given(st.integers(0, 5000))
def test_the_base_of_every_version(version: int) -> None:
    def named(number: int) -> Location:
        return frame(number, (number & (number - 1)).to_bytes(32, "big") if number else NO_ID)

    found = base_for(named(version), 9, lambda id: named(int.from_bytes(id, "big")))
    following = version + 1
    if following.bit_count() > MAX_DEPTH:
        assert found is None
    else:
        assert found is not None
        assert (found.version, found.location.frame.version) == (following, following & version)


def test_a_broken_chain_has_no_next_version() -> None:
    nothing: Callable[[bytes], Location | None] = lambda id: None  # noqa: E731
    assert base_for(frame(5, b"x" * 32), 9, nothing) is None
    assert base_for(frame(5, b"x" * 32), 8, nothing) is None
    assert base_for(frame(5, b"x" * 32), 9, lambda id: frame(3, b"y" * 32)) is None


def test_a_forged_cycle_is_refused(repo: ckstore.Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in drift(3):
        repo.commit(version)
    store = repo._repository.store
    known = locations(repo)
    deltas = sorted(
        (one for one in known.values() if one.frame.raw_length > 1 << 19 and one.frame.version),
        key=lambda o: o.frame.version,
    )
    low, high = deltas[0], deltas[-1]
    forged = {low.frame.id: low._replace(frame=low.frame._replace(base=high.frame.id))}
    monkeypatch.setattr(type(store.objects), "locate", lambda self, id: forged.get(id) or known.get(id))
    with pytest.raises(Integrity, match="base"):
        store.objects.read_at(forged[low.frame.id])
    itself = high._replace(frame=high.frame._replace(base=high.frame.id))
    with pytest.raises(Integrity, match="base"):
        store.objects.read_at(itself)
    with pytest.raises(Integrity):
        store.objects.read_at(high._replace(frame=high.frame._replace(base=os.urandom(32))))
