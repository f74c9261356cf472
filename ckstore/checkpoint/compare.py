"""Whether a new file holds what the commit holds, bit for bit: read back from the disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckstore.checkpoint.convert import picked_tensors, selected_state
from ckstore.files import safetensors
from ckstore.files.source import Files
from ckstore.objects.draft import DraftTensor, same

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ckstore.objects.commit import Commit
    from ckstore.repository import Repository


def same_pt(repository: Repository, commit: Commit, path: Path, only: Sequence[str] | None) -> bool:
    """Whether torch.load gives what the commit holds: structure, values, and every bit of every tensor."""
    from ckstore.torch.flatten import flatten
    from ckstore.torch.save import read

    return same(flatten(selected_state(repository, commit, only), "state"), flatten(read(path), "state"))


def same_safetensors(repository: Repository, commit: Commit, path: Path, only: Sequence[str] | None) -> bool:
    """Whether the file's tensors are the commit's, as torch has them, by name, dtype, shape and every bit."""
    from ckstore.torch.lazy import LazyTensor
    from ckstore.torch.tensors import host_view

    picked, _ = picked_tensors(repository, commit, only)
    with Files() as files:
        draft = safetensors.parse(files.add(path)).components[safetensors.COMPONENT]
        held = {key: value for key, value in draft.entries if isinstance(value, DraftTensor)}
        if len(held) != len(picked):
            return False
        for one in picked:
            found = held.get(one.described.name)
            if found is None or (found.dtype, found.shape) != (one.described.dtype, one.described.shape):
                return False
            tensor = LazyTensor(one.structure, repository.store.objects, one.ordinal).load().contiguous()
            whole = host_view(tensor.untyped_storage(), 0, one.described.size_bytes)
            if bytes(whole) != bytes(draft.spans[found.span].open(0, one.described.size_bytes)):
                return False
    return True
