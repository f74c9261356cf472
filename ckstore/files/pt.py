"""Files of torch.save: a zip archive of one pickle and the bytes of the storages it names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckstore.files import pickle_data
from ckstore.files.archive import MAGIC, read
from ckstore.files.parsed import Claim, ParsedFile, assemble
from ckstore.files.pickle_limits import Limits
from ckstore.files.pickle_values import NotUnderstoodError, Size
from ckstore.files.pt_draft import to_draft

if TYPE_CHECKING:
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
    components = {}
    claims: list[Claim] = []
    try:
        for name, value in _parts(pickle_data.load(pickle, limits)).items():
            components[name], claimed = to_draft(name, value, source, archive.storages, limits)
            claims += claimed
    except NotUnderstoodError:
        return None
    return assemble(data.nbytes, components, claims)


def _parts(root: object) -> dict[str, object]:
    """The components: the top entries of a checkpoint, or the whole where it is a bare state dict or no dict."""
    if type(root) is dict and any(_is_container(value) for value in root.values()):
        named = {key: value for key, value in root.items() if type(key) is str}
        if len(named) == len(root):
            return named
    return {WHOLE: root}


def _is_container(value: object) -> bool:
    return isinstance(value, (dict, list, tuple)) and not isinstance(value, Size)
