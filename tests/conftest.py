"""Fixtures for all tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import ckstore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[ckstore.Repo]:
    """An empty repository in a folder of its own."""
    with ckstore.open(tmp_path / "repo", cache=tmp_path / "cache") as opened:
        yield opened
