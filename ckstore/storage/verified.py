"""When each pack was last read and hashed whole: a note beside the packs, which carries no promise.

A pack that was found damaged is noted with a negative time: looked at, and not verified.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ckstore import durable
from ckstore.errors import CkstoreError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckstore.storage.layout import Layout

_DECODER = msgspec.json.Decoder(dict[str, int])


def read_verified(layout: Layout) -> dict[bytes, int]:
    """The time, in ns since 1970 UTC, by the pack's name; empty where the note is missing or damaged."""
    return {name: when for name, when in _read(layout).items() if when > 0}


def read_damaged(layout: Layout) -> set[bytes]:
    """The packs that were found damaged when they were last read."""
    return {name for name, when in _read(layout).items() if when < 0}


def read_looked_at(layout: Layout) -> dict[bytes, int]:
    """As `read_verified`, with packs that were found damaged too."""
    return {name: abs(when) for name, when in _read(layout).items()}


def write_verified(
    layout: Layout,
    packs: Iterable[bytes],
    time_ns: int,
    *,
    existing: Iterable[bytes],
    damaged: Iterable[bytes] = (),
) -> None:
    """Note that `packs` are sound at `time_ns` and `damaged` are not; of what was noted before `existing` is kept.

    Where nothing can be written nothing is noted.
    """
    kept = set(existing)
    noted = {name: when for name, when in _read(layout).items() if name in kept}
    noted |= dict.fromkeys(packs, time_ns) | dict.fromkeys(damaged, -time_ns)
    try:
        durable.put(layout.verified, msgspec.json.encode({name.hex(): when for name, when in sorted(noted.items())}))
    except CkstoreError:
        return


def _read(layout: Layout) -> dict[bytes, int]:
    try:
        return {bytes.fromhex(name): time_ns for name, time_ns in _DECODER.decode(layout.verified.read_bytes()).items()}
    except (OSError, msgspec.MsgspecError, ValueError):
        return {}
