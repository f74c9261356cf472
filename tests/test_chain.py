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
from ckstore.codec.preset import ARCHIVE, BALANCED, FAST
from ckstore.digest import NO_ID, Kind
from ckstore.errors import CkstoreWarning, Integrity, InvalidInput
from ckstore.pack.format import FRAME_HEADER_SIZE, Frame
from ckstore.porcelain.init import init
from ckstore.storage.chain import Base, base_for, within, work_of
from ckstore.storage.location import Location
from ckstore.storage.transaction import Transaction
from ckstore.storage.view import View

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


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
    whole = [size for size in sizes[1:] if size > 0.8 * sizes[0]]
    assert len(whole) <= 1  # where the chain had become too much work
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
        (one.pack, one.offset + FRAME_HEADER_SIZE + 1000)
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


def numbered(version: int) -> bytes:
    """An id that says its version; never zero."""
    return (version + 1).to_bytes(32, "big")


def version_of(id: bytes) -> int:
    return int.from_bytes(id, "big") - 1


def frame(version: int, base: bytes, busy: int = 9) -> Location:
    named = Frame(Kind.CHUNK, Codec.DELTA, 4, numbered(version), 9, 9, base, version, busy)
    return Location(b"p" * 16, 40, named)


def chain_from(version: int, before: Callable[[int], int]) -> list[Location]:
    """A frame and those it needs: `before` gives the version that one is kept against."""
    chain = []
    while version:
        chain.append(frame(version, numbered(before(version)), busy=0))
        version = before(version)
    return [*chain, frame(0, NO_ID, busy=0)]


@given(st.integers(0, 5000))
def test_the_base_of_every_version(version: int) -> None:
    found = base_for(chain_from(version, lambda number: number & (number - 1)), 9, BALANCED)
    following = version + 1
    if following.bit_count() > BALANCED.max_depth:
        assert found is None
    else:
        assert found is not None
        assert (found.version, found.location.frame.version) == (following, following & version)


@given(st.integers(0, 200))
def test_the_archive_keeps_every_version_against_the_one_before(version: int) -> None:
    before = chain_from(version, lambda number: number - 1)
    found = base_for(before, 9, ARCHIVE)
    if version >= ARCHIVE.max_depth:
        assert found is None
    else:
        assert found == Base(before, version + 1)


def test_a_skip_delta_after_a_plain_chain_takes_what_is_there() -> None:
    """Version 8 would be kept against 0; in a plain chain that is reached through all of them."""
    chain = chain_from(7, lambda number: number - 1)
    assert base_for(chain, 9, BALANCED) == Base(chain[7:], 8)


def test_work_bounds_a_chain() -> None:
    cheap, dear = frame(0, NO_ID, busy=0), frame(0, NO_ID, busy=int(BALANCED.max_work * 9) + 1)
    found = base_for([cheap], 9, BALANCED)
    assert found is not None
    assert base_for([dear], 9, BALANCED) is None
    assert within(found, frame(1, b"x" * 32).frame, BALANCED)
    assert not within(Base([dear], 1), frame(1, b"x" * 32).frame, BALANCED)


def test_what_is_not_alike_or_not_wanted_has_no_base() -> None:
    assert base_for([frame(5, NO_ID)], 9, BALANCED) is not None
    assert base_for([frame(5, NO_ID)], 8, BALANCED) is None
    assert base_for([frame(5, NO_ID)], 9, FAST) is None


def test_chains_end_where_the_work_does(repo: ckstore.Repo) -> None:
    """However many versions: no chain is deeper or costs more than the preset allows, and all come back."""
    versions = drift(40, torch.bfloat16)
    for step, version in enumerate(versions):
        repo.commit(version, step=step)
    known = locations(repo)
    assert max(depth(one, known) for one in known.values()) >= 3
    for one in known.values():
        chain = [one]
        while chain[-1].frame.base != NO_ID:
            chain.append(known[chain[-1].frame.base])
        assert len(chain) - 1 == depth(one, known) <= BALANCED.max_depth
        assert len(chain) == 1 or work_of(chain) <= BALANCED.max_work * one.frame.raw_length
    for step in (0, 1, 7, 15, 31, 38, 39):
        assert same(repo[f"step:{step}"].load(), versions[step])


def test_presets(tmp_path: Path) -> None:
    """A repository's own preset, one for all commits of a process, one for a single commit."""
    init(tmp_path / "archived", preset="archive")
    versions = drift(5)

    def deepest(folder: str, opened: str | None, committed: str | None) -> int:
        with ckstore.open(tmp_path / folder, preset=opened) as opened_repo:
            for version in versions:
                opened_repo.commit(version, preset=committed)
            assert same(opened_repo["HEAD"].load(), versions[-1])
            assert opened_repo.verify(read_data=True).ok
            known = locations(opened_repo)
            return max(depth(one, known) for one in known.values())

    assert deepest("archived", None, None) == 4
    assert deepest("plain", None, None) == 2
    assert deepest("opened", "archive", None) == 4
    assert deepest("committed", "fast", "archive") == 4
    assert deepest("fast", "fast", None) == 0
    with pytest.raises(InvalidInput, match="no preset"):
        ckstore.open(tmp_path / "none", preset="best")
    assert not (tmp_path / "none").exists()
    with ckstore.open(tmp_path / "plain") as repo, pytest.raises(InvalidInput, match="no preset"):
        repo.commit(versions[0], preset="best")


def test_an_unknown_preset_stops_only_commits(tmp_path: Path) -> None:
    (version,) = drift(1)
    with ckstore.open(tmp_path) as repo:
        repo.commit(version)
    (tmp_path / ".ckstore/config.toml").write_text("[storage]\npreset = 'of a later version'")
    with ckstore.open(tmp_path) as repo:
        assert same(repo["HEAD"].load(), version)
        with pytest.raises(InvalidInput, match=r"config\.toml.*no preset"):
            repo.commit(version)
        repo.commit(version, preset="fast")


@pytest.mark.parametrize(
    "text", ["[storage]\npreset = 3", "storage = 1", "x = 1", "[", "\xff", f"a = {'1' * 5000}", "[storage]\nx = 1"]
)
def test_settings_that_are_wrong(tmp_path: Path, text: str) -> None:
    ckstore.open(tmp_path).close()
    (tmp_path / ".ckstore/config.toml").write_text(text, encoding="latin-1")
    with ckstore.open(tmp_path) as repo:
        assert repo.log() == []
        with pytest.raises(InvalidInput, match=r"config\.toml"):
            repo.commit({"step": 1})


def test_components_do_not_share_what_gains(repo: ckstore.Repo) -> None:
    """Whether differences gain is decided for each tensor of each component, whatever their order."""
    torch.manual_seed(0)
    sizes = []
    for order in (("a", "m"), ("m", "a")):
        first = {"a": torch.randn(1 << 19), "m": torch.randn(1 << 19)}
        second = {"a": first["a"] * 1.00001, "m": torch.randn(1 << 19)}
        branch = "".join(order)
        for state in (first, second):
            result = repo.commit({name: state[name] for name in order}, branch=branch)
        sizes.append(result.pack_bytes)
    assert max(sizes) < 1.02 * min(sizes)
    deltas = [one for one in locations(repo).values() if one.frame.codec == Codec.DELTA]
    assert len(deltas) == 4


def test_a_delta_that_gains_nothing_is_kept_by_itself(repo: ckstore.Repo) -> None:
    """The first chunk says that differences gain; those chunks where they do not are encoded by themselves."""
    torch.manual_seed(0)
    first = torch.randn(1 << 20)
    second = torch.cat([first[: 1 << 18] * 1.00001, torch.randn(3 << 18)])
    repo.commit({"w": first})
    repo.commit({"w": second})
    known = locations(repo)
    assert [one.frame.codec for one in known.values()].count(Codec.DELTA) == 1
    assert torch.equal(repo["HEAD"].load()["w"], second)


def test_what_was_relied_on_and_has_gone_is_written_again(repo: ckstore.Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    """W3: between encoding and publishing the index is made anew, and every known chunk and base is missing from it."""
    first, second = drift(2)
    kept = torch.arange(1 << 18)
    repo.commit({**first, "kept": kept})
    publish = Transaction.publish

    def after_a_loss(transaction: Transaction, *arguments: Any) -> Any:
        monkeypatch.setattr(Transaction, "publish", publish)
        for pack in (repo.path / ".ckstore/packs").iterdir():
            pack.unlink()
        repo._repository.store.packs.close()
        with pytest.warns(CkstoreWarning, match="cannot be read"):
            repo._repository.store.rebuild_index()
        return publish(transaction, *arguments)

    monkeypatch.setattr(Transaction, "publish", after_a_loss)
    repo.commit({**second, "kept": kept}, branch="alone", parent="main")
    loaded = repo["alone"].load()
    assert same(loaded, second)
    assert torch.equal(loaded["kept"], kept)


@pytest.mark.parametrize("wrong", [{"raw_length": 4}, {"kind": Kind.TREE}])
def test_a_base_that_no_writer_makes_is_not_built_upon(wrong: dict[str, Any]) -> None:
    base = frame(4, NO_ID)
    base = base._replace(frame=base.frame._replace(**wrong))
    assert base_for([base], 9, BALANCED) is None


def test_a_base_that_is_damaged_serves_nobody(repo: ckstore.Repo) -> None:
    first, second = drift(2)
    repo.commit(first)
    known = [one for one in locations(repo).values() if one.frame.raw_length > 1 << 19]
    for one in known:
        path = repo.path / f".ckstore/packs/{one.pack.hex()}.pack"
        with path.open("r+b") as file:
            place = one.offset + FRAME_HEADER_SIZE + one.frame.stored_length // 2
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ 1]))
    repo.commit(second)
    assert same(repo["HEAD"].load(), second)
    assert not [one for one in locations(repo).values() if one.frame.base in {damaged.frame.id for damaged in known}]


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
    monkeypatch.setattr(View, "locate", lambda self, id: forged.get(id) or known.get(id))
    with pytest.raises(Integrity, match="base"):
        store.objects.read_at(forged[low.frame.id])
    itself = high._replace(frame=high.frame._replace(base=high.frame.id))
    with pytest.raises(Integrity, match="base"):
        store.objects.read_at(itself)
    with pytest.raises(Integrity):
        store.objects.read_at(high._replace(frame=high.frame._replace(base=os.urandom(32))))
