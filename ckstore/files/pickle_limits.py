"""How much a pickle may unfold to, in proportion to its own length."""

from __future__ import annotations

from ckstore.files.parsed import damaged
from ckstore.files.pickle_values import GlobalRef, NotUnderstoodError

MAX_ENTRIES = 10_000_000
"""Values a pickle may unfold to, however long it is."""

ENTRIES_PER_BYTE = 50
SMALL_ENTRIES = 100_000
"""A pickle may unfold to as many values as ENTRIES_PER_BYTE allow, and a short one to SMALL_ENTRIES."""

SMALL_PAYLOAD = 256 << 20
"""Bytes of text and bytes a pickle may unfold to, besides four times its own length."""

MAX_ODD_KEYS = 1 << 14
MAX_KEY_DEPTH = 16

_SAFE_KEYS = frozenset({str, bytes, bool, float, type(None), GlobalRef})


class Limits:
    """What one pickle may still make. Values may share parts, so a short pickle can name an endless whole."""

    __slots__ = ("_entries", "_odd_keys", "_payload")

    def __init__(self, length_bytes: int) -> None:
        self._entries = min(MAX_ENTRIES, max(SMALL_ENTRIES, ENTRIES_PER_BYTE * length_bytes))
        self._payload = SMALL_PAYLOAD + 4 * length_bytes
        self._odd_keys = MAX_ODD_KEYS

    def take(self, entries: int, payload_bytes: int = 0) -> None:
        """Count what is about to be made. Raises `Format` where that is too much."""
        self._entries -= entries
        self._payload -= payload_bytes
        if self._entries < 0 or self._payload < 0:
            raise damaged("the pickle unfolds to far more than its own length")

    def key(self, key: object) -> None:
        """Make sure that `key` may be hashed. Raises `Format`, or NotUnderstoodError.

        Hashing walks a tuple and all it holds, as deep as that goes; and numbers can be made to collide in a
        table, which text cannot, so that only so many keys may hold other than text and short numbers.
        """
        if type(key) is str:
            return
        odd = False
        level = [key]
        for depth in range(MAX_KEY_DEPTH):
            inner: list[object] = []
            for part in level:
                if isinstance(part, tuple):
                    self.take(len(part))
                    inner += part
                elif type(part) is int:
                    bits = part.bit_length()
                    self.take(bits >> 6)
                    odd |= depth > 0 or bits > 64
                else:
                    odd |= type(part) not in _SAFE_KEYS
            level = inner
            if not level:
                break
        else:
            raise damaged("a key in the pickle nests too deep")
        if odd:
            self._odd_keys -= 1
            if self._odd_keys < 0:
                raise NotUnderstoodError("too many keys that are neither text nor short numbers")
