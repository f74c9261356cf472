"""Spans of time and sizes as people write them: `7d`, `1.5h`, `200GB`."""

from __future__ import annotations

import re
from fractions import Fraction

SPAN = r"\d{1,12}(?:\.\d{1,9})?[smhdw]"
"""What a span looks like, as a regular expression."""

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
"""What the letters of a span stand for."""

_SIZE = re.compile(r"(\d{1,20}(?:\.\d{1,9})?) ?([kKMGTP]?)(i?)B?", re.ASCII)
_POWERS = "KMGTP"


def parse_span(text: str) -> int | None:
    """The nanoseconds of a span (s m h d w); None for a text that is none."""
    if re.fullmatch(SPAN, text, re.ASCII) is None:
        return None
    return int(Fraction(text[:-1]) * SECONDS[text[-1]] * 10**9)


def span_text(span_ns: int) -> str:
    """A span as `parse_span` reads it back, in the largest of d, h, m, s that is exact."""
    for unit in "dhm":
        if span_ns % (SECONDS[unit] * 10**9) == 0:
            return f"{span_ns // (SECONDS[unit] * 10**9)}{unit}"
    whole, rest = divmod(span_ns, 10**9)
    return f"{whole}.{rest:09d}".rstrip("0").rstrip(".") + "s"


def parse_size(text: str) -> int | None:
    """The bytes of a size: powers of 1000 (kB MB GB TB PB), or of 1024 (KiB MiB ...); None for a text that is none."""
    match = _SIZE.fullmatch(text)
    if match is None or (match[3] and not match[2]):
        return None
    power = _POWERS.index(match[2].upper()) + 1 if match[2] else 0
    return int(Fraction(match[1]) * (1024 if match[3] else 1000) ** power)


def size_text(size_bytes: int) -> str:
    """A size as `parse_size` reads it back, in the largest unit that is exact."""
    for power, unit in zip(range(5, 0, -1), ("PB", "TB", "GB", "MB", "kB"), strict=True):
        if size_bytes and size_bytes % 1000**power == 0:
            return f"{size_bytes // 1000**power}{unit}"
    return f"{size_bytes}B"


def about(size_bytes: float) -> str:
    """A size for people to read, in powers of 1000: `1.2 GB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(size_bytes) < 1000 or unit == "TB":
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    raise AssertionError
