"""Whether a new file holds what the commit holds, bit for bit: read back from the disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckstore.checkpoint.convert import picked_tensors, selected_state
from ckstore.errors import Format, InvalidInput
from ckstore.files import safetensors
from ckstore.files.source import Files
from ckstore.objects.draft import DraftTensor, same

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ckstore.checkpoint.convert import Picked
    from ckstore.objects.commit import Commit
    from ckstore.objects.draft import Draft, Span
    from ckstore.repository import Repository


_STEP = 1 << 20
_BATCH_BYTES = 16 << 20


def same_pt(repository: Repository, commit: Commit, path: Path, only: Sequence[str] | None) -> bool:
    """Whether torch.load gives what the commit holds: structure, values, and every bit of every tensor."""
    from ckstore.torch.flatten import flatten
    from ckstore.torch.save import read

    try:
        found = flatten(read(path), "state")
    except (Format, InvalidInput):
        return False
    return same(flatten(selected_state(repository, commit, only), "state"), found)


def same_safetensors(repository: Repository, commit: Commit, path: Path, only: Sequence[str] | None) -> bool:
    """Whether the file's tensors are the commit's, as torch has them, by name, dtype, shape and every bit."""
    picked, _ = picked_tensors(repository, commit, only)
    with Files() as files:
        try:
            draft = safetensors.parse(files.add(path)).components[safetensors.COMPONENT]
        except Format:
            return False
        held = {key: value for key, value in draft.entries if isinstance(value, DraftTensor)}
        return len(held) == len(picked) and all(
            _same_tensors(repository, batch, [held.get(one.described.name) for one in batch], draft)
            for batch in _batches(picked)
        )


def _batches(picked: Sequence[Picked]) -> Iterator[list[Picked]]:
    """Tensors that are read together: of one component, and few bytes unless a single one has more."""
    batch: list[Picked] = []
    size = 0
    for one in picked:
        if batch and (one.structure is not batch[0].structure or size + one.described.size_bytes > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(one)
        size += one.described.size_bytes
    if batch:
        yield batch


def _same_tensors(
    repository: Repository, batch: Sequence[Picked], found: Sequence[DraftTensor | None], draft: Draft
) -> bool:
    from ckstore.torch.storages import load_tensors
    from ckstore.torch.tensors import row_major_bytes

    tensors = load_tensors(batch[0].structure, [one.ordinal for one in batch], repository.store.objects)
    return all(
        other is not None
        and (other.dtype, other.shape) == (one.described.dtype, one.described.shape)
        and _same_bytes(row_major_bytes(tensor), draft.spans[other.span])
        for one, tensor, other in zip(batch, tensors, found, strict=True)
    )


def _same_bytes(whole: memoryview, span: Span) -> bool:
    return whole.nbytes == span.length and all(
        bytes(whole[start : start + _STEP]) == bytes(span.open(start, min(start + _STEP, span.length)))
        for start in range(0, span.length, _STEP)
    )
