"""Repositories of every format are read for ever; a newer format is refused; `migrate` brings older ones here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import ckstore
from ckstore.errors import Format, Integrity, NoRepository
from ckstore.porcelain.migrate import migrate
from ckstore.storage.layout import FORMAT
from tests.format.make_golden import everything, expected, run
from tests.indexed import indexed

GOLDEN = Path(__file__).parent / "golden"
FORMATS = sorted(int(path.name) for path in GOLDEN.iterdir())


def brought(number: int, folder: Path) -> dict[str, Any]:
    """A golden repository in `folder`, and what must be read back from it."""
    shutil.copytree(GOLDEN / str(number) / "store", folder / ".ckstore")
    wanted: dict[str, Any] = json.loads((GOLDEN / str(number) / "expected.json").read_text())
    return wanted


@pytest.mark.parametrize("number", FORMATS)
def test_everything_reads_back(number: int, tmp_path: Path) -> None:
    wanted = brought(number, tmp_path)
    if number != FORMAT:
        with pytest.raises(Format, match="migrate"):
            ckstore.open(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert migrate(tmp_path, dry_run=True).before == number
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert (migrate(tmp_path).before, migrate(tmp_path).before) == (number, FORMAT)
    with ckstore.open(tmp_path) as repo:
        assert json.dumps(expected(repo)) == json.dumps(wanted)  # as text: NaN is not itself
        assert repo.verify(read_data=True).findings == ()
        said = indexed(repo._repository)
        repo._repository.store.rebuild_index()
        assert indexed(repo._repository) == said
    changed = [path.name for path, content in before.items() if path.read_bytes() != content]
    assert changed == ([] if number == FORMAT else ["format"])


@pytest.mark.parametrize("number", FORMATS)
def test_it_goes_on_from_there(number: int, tmp_path: Path) -> None:
    wanted = brought(number, tmp_path)
    migrate(tmp_path)
    with ckstore.open(tmp_path) as repo:
        known = {json.dumps(said.get("state")) for said in wanted["commits"].values()}
        assert (
            repo.commit(run(9), branch="main", step=9).new_objects <= 2
        )  # it is all there: the chunks' ids are the same
        repo.commit(run(6), branch="run", step=6)
        repo.gc({"run": "last=1"}, grace="0", repack=True)
        assert repo.verify(read_data=True).ok
        assert len(known) > 5


def test_the_same_state_has_the_same_ids(tmp_path: Path) -> None:
    wanted = json.loads((GOLDEN / str(FORMAT) / "expected.json").read_text())
    brought(FORMAT, tmp_path / "golden")
    with ckstore.open(tmp_path / "golden") as golden, ckstore.open(tmp_path / "new") as repo:
        (id,) = (id for id, said in wanted["commits"].items() if said["message"] == "everything")
        repo.commit(everything())
        assert repo["HEAD"]._commit.components == golden[id]._commit.components


@pytest.mark.parametrize("number", FORMATS)
def test_a_newer_format_is_refused_and_left_alone(number: int, tmp_path: Path) -> None:
    brought(number, tmp_path)
    said = tmp_path / ".ckstore/format"
    said.write_text(said.read_text().replace(f"format = {number}", f"format = {FORMAT + 1}"))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for work in (lambda: ckstore.open(tmp_path), lambda: migrate(tmp_path)):
        with pytest.raises(Format, match=f"format {FORMAT + 1}") as caught:
            work()
        assert "newer" in str(caught.value.hint)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_migrate_refuses_what_it_cannot_read(tmp_path: Path) -> None:
    with pytest.raises(NoRepository):
        migrate(tmp_path)
    brought(0, tmp_path)
    (segment,) = (tmp_path / ".ckstore/journal").iterdir()
    content = bytearray(segment.read_bytes())
    content[100] ^= 1
    segment.write_bytes(content)
    with pytest.raises(Integrity):
        migrate(tmp_path)
    assert "format = 0" in (tmp_path / ".ckstore/format").read_text()
