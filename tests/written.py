"""What was written to the disk, and what was refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import safetensors.torch
import torch

from ckstore.errors import CkstoreError, InvalidInput
from tests.equality import raw_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


def refused(act: Callable[[], object], *kinds: type[CkstoreError], match: str = ".") -> CkstoreError:
    """The error, which must say what to do."""
    with pytest.raises(kinds or InvalidInput, match=match) as caught:
        act()
    assert caught.value.hint
    return caught.value


def below(path: Path) -> list[str]:
    """All that is no folder below one, by its path."""
    return sorted(str(one.relative_to(path)) for one in path.rglob("*") if not one.is_dir() or one.is_symlink())


def flat(value: Any, prefix: str = "") -> dict[str, torch.Tensor]:
    """The tensors of a nested value by their dotted paths."""
    if isinstance(value, torch.Tensor):
        return {prefix: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    found: dict[str, torch.Tensor] = {}
    for key, item in items:
        found |= flat(item, f"{prefix}.{key}" if prefix else str(key))
    return found


def assert_tensors(path: Path, expected: Mapping[str, torch.Tensor]) -> None:
    """The file's tensors, as its own library reads them, are these to the last bit."""
    found = safetensors.torch.load_file(path)
    assert sorted(found) == sorted(expected)
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert raw_bytes(found[name]) == raw_bytes(tensor), name
