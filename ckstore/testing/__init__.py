"""A published test kit for what others build on ckstore; each module says what it checks. It needs no pytest."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

_PUBLIC = {
    "assert_resume_equal": "ckstore.testing.resume",
    "ResumeReport": "ckstore.testing.resume",
}

__all__ = ["ResumeReport", "assert_resume_equal"]

if TYPE_CHECKING:
    from ckstore.testing.resume import ResumeReport, assert_resume_equal


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'ckstore.testing' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
