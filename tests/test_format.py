"""Golden ids and sizes: the same value has the same bytes and the same id on every machine."""

from __future__ import annotations

import collections
import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from blake3 import blake3

from ckstore.digest import Kind, object_id
from ckstore.objects.commit import Commit, Component, Metric
from ckstore.objects.encoding import encode, float_bits
from ckstore.pack import format as pack_format
from ckstore.storage import journal

if TYPE_CHECKING:
    import ckstore

FORMAT = (Path(__file__).parent.parent / "docs" / "format.md").read_text()


def state() -> dict[str, object]:
    """A state with a little of everything, the same on every machine."""
    weight = torch.arange(100_000, dtype=torch.float32).reshape(250, 400)
    return {
        "model": collections.OrderedDict(
            [("w", weight), ("tied", weight.T), ("bias", torch.zeros(7)), ("half", torch.ones(9).bfloat16())]
        ),
        "config": {"lr": 1e-3, "layers": (1, 2), "name": "a\u00e9", "big": 1 << 100, None: [True, b"x" * 5000]},
        "step": 3,
    }


def test_tree_ids_do_not_change(repo: ckstore.Repo) -> None:
    repo.commit(state())
    commit = repo["HEAD"]._commit
    assert {entry.name: entry.tree.hex()[:16] for entry in commit.components} == {
        "model": "49cbe610db9ce40e",
        "config": "b4b98347896d1410",
        "step": "9561c37e489101e9",
    }


def test_commit_bytes_do_not_change() -> None:
    commit = Commit(
        components=(Component("model", bytes(range(32))),),
        parents=(bytes(32),),
        time_ns=1_700_000_000_000_000_000,
        offset_min=60,
        author="ada",
        message="first",
        metrics=(Metric("loss", float_bits(0.5)),),
        step=10,
    )
    assert object_id(Kind.COMMIT, encode(commit)).hex()[:16] == "53f5b02d94cceb30"


def test_chunk_ids_are_plain_blake3() -> None:
    assert object_id(Kind.CHUNK, b"abc") == blake3(b"abc").digest()
    assert object_id(Kind.TREE, b"abc") != object_id(Kind.CHUNK, b"abc")
    assert object_id(Kind.TREE, b"abc") != object_id(Kind.COMMIT, b"abc")


def test_the_tables_of_the_document_have_the_sizes_of_the_code() -> None:
    for title, size in (
        ("Header", pack_format.HEADER_SIZE),
        ("Frame header", pack_format.FRAME_HEADER_SIZE),
        ("Table row", pack_format.ROW_SIZE),
        ("Trailer", pack_format.TRAILER_SIZE),
    ):
        section = FORMAT[FORMAT.index(f"\n{title}, {size} bytes") :]
        rows = re.findall(
            r"^\| (\d+) \| (\d+) \|", section[: section.index("\n\n", section.index("|---"))], re.MULTILINE
        )
        ends = [int(offset) + int(length) for offset, length in rows]
        assert [int(offset) for offset, _ in rows] == [0, *ends[:-1]]
        assert ends[-1] == size
    assert journal._HEADER_SIZE == 56
