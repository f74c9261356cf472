"""ckstore: git for training state.

    import ckstore

    repo = ckstore.open("runs")
    repo.commit({"model": model, "optimizer": optimizer}, step=100, metrics={"loss": 0.5})
    repo["last"].load(into={"model": model, "optimizer": optimizer})

Importing this module loads neither torch nor numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_PUBLIC = {
    "open": "ckstore.api.repo",
    "keep": "ckstore.graph.policy",
    "Policy": "ckstore.graph.policy",
    "Repo": "ckstore.api.repo",
    "Checkpoint": "ckstore.api.checkpoint",
    "CommitInfo": "ckstore.graph.history",
    "CommitResult": "ckstore.checkpoint.store",
    "ContentFinding": "ckstore.graph.content",
    "ValidatedTensor": "ckstore.graph.content",
    "LoadReport": "ckstore.torch.load_into",
    "register_encoder": "ckstore.torch.registry",
    "Progress": "ckstore.progress",
    "CkstoreError": "ckstore.errors",
    "CkstoreWarning": "ckstore.errors",
    "InvalidInput": "ckstore.errors",
    "NotFound": "ckstore.errors",
    "NoRepository": "ckstore.errors",
    "NoRevision": "ckstore.errors",
    "Absent": "ckstore.errors",
    "Conflict": "ckstore.errors",
    "Locked": "ckstore.errors",
    "Integrity": "ckstore.errors",
    "Format": "ckstore.errors",
    "StoreFull": "ckstore.errors",
    "Auth": "ckstore.errors",
    "RemoteFailed": "ckstore.errors",
    "SaveFailed": "ckstore.errors",
}

__all__ = [
    "Auth",
    "Checkpoint",
    "CkstoreError",
    "CkstoreWarning",
    "CommitInfo",
    "CommitResult",
    "Conflict",
    "ContentFinding",
    "Format",
    "Integrity",
    "InvalidInput",
    "LoadReport",
    "Locked",
    "NoRepository",
    "NoRevision",
    "NotFound",
    "Policy",
    "Progress",
    "RemoteFailed",
    "Repo",
    "SaveFailed",
    "StoreFull",
    "ValidatedTensor",
    "__version__",
    "keep",
    "open",
    "register_encoder",
]

if TYPE_CHECKING:
    from ckstore.api.checkpoint import Checkpoint
    from ckstore.api.repo import Repo, open  # noqa: A004
    from ckstore.checkpoint.store import CommitResult
    from ckstore.errors import (
        Auth,
        CkstoreError,
        CkstoreWarning,
        Conflict,
        Format,
        Integrity,
        InvalidInput,
        Locked,
        NoRepository,
        NoRevision,
        NotFound,
        RemoteFailed,
        SaveFailed,
        StoreFull,
    )
    from ckstore.graph.content import ContentFinding, ValidatedTensor
    from ckstore.graph.history import CommitInfo
    from ckstore.graph.policy import Policy, keep
    from ckstore.progress import Progress
    from ckstore.torch.load_into import LoadReport
    from ckstore.torch.registry import register_encoder


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'ckstore' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
