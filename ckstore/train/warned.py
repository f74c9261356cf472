"""Warnings that point to the line of the training that led to them."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING

from ckstore.errors import CkstoreWarning

if TYPE_CHECKING:
    from types import FrameType


def warn(text: str) -> None:
    """Warn of `text` at the nearest caller outside of ckstore."""
    level = 1
    frame: FrameType | None = sys._getframe()
    while frame is not None and str(frame.f_globals.get("__name__")).startswith(("ckstore.", "contextlib")):
        frame = frame.f_back
        level += 1
    warnings.warn(text, CkstoreWarning, stacklevel=level)
