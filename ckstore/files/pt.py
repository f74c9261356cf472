"""Files of torch.save: a zip archive of one pickle and the bytes of the storages it names."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckstore.files import pickle_data
from ckstore.files.archive import MAGIC, read
from ckstore.files.parsed import Claim, ParsedFile, assemble
from ckstore.files.pickle_limits import Limits
from ckstore.files.pickle_values import NotUnderstoodError, Size
from ckstore.files.pt_draft import to_draft

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckstore.files.archive import Region
    from ckstore.files.source import Source

__all__ = ["MAGIC", "parse"]

WHOLE = "model"
"""The name of the only component of a file that is no dict of parts."""


def parse(source: Source) -> ParsedFile | None:
    """The components of a zip-format `.pt` file.

    None where the file is another zip file, of another byte order, compressed, or its pickle holds what is
    not known as data. Raises `Format` for a damaged file.
    """
    data = source.view()
    if data[: len(MAGIC)] != MAGIC:
        return None
    archive = read(data)
    if archive is None:
        return None
    pickle = data[archive.pickle.start : archive.pickle.start + archive.pickle.length]
    limits = Limits(pickle.nbytes)
    try:
        return as_components(pickle_data.load(pickle, limits), source, archive.storages, limits)
    except NotUnderstoodError:
        return None


def as_components(root: object, source: Source, storages: Mapping[str, Region], limits: Limits) -> ParsedFile:
    """The file whose pickle holds `root` and whose storages lie where `storages` says. Raises as `to_draft` does."""
    components = {}
    claims: list[Claim] = []
    parts = _parts(root)
    for name, value in ({WHOLE: root} if parts is None else parts).items():
        components[name], claimed = to_draft(name, value, source, storages, limits)
        claims += claimed
    return replace(assemble(source.size_bytes, components, claims), split=parts is not None)


def _parts(root: object) -> dict[str, object] | None:
    """The top entries of a checkpoint; None where it is a bare state dict or no dict, and thus one component."""
    if type(root) is dict and any(_is_container(value) for value in root.values()):
        named = {key: value for key, value in root.items() if type(key) is str}
        if len(named) == len(root):
            return named
    return None


def _is_container(value: object) -> bool:
    return isinstance(value, (dict, list, tuple)) and not isinstance(value, Size)
