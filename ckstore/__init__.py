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
    "clone": "ckstore.api.sharing",
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
    "Run": "ckstore.train.run",
    "Resumed": "ckstore.train.resume",
    "Save": "ckstore.train.saver",
    "Preempted": "ckstore.train.preemption",
    "Trigger": "ckstore.train.triggers",
    "steps": "ckstore.train.triggers",
    "epochs": "ckstore.train.triggers",
    "minutes": "ckstore.train.triggers",
    "best": "ckstore.train.triggers",
    "at": "ckstore.train.triggers",
    "signals": "ckstore.train.triggers",
    "capture_rng": "ckstore.train.rng",
    "restore_rng": "ckstore.train.rng",
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
    "Preempted",
    "Progress",
    "RemoteFailed",
    "Repo",
    "Resumed",
    "Run",
    "Save",
    "SaveFailed",
    "StoreFull",
    "Trigger",
    "ValidatedTensor",
    "__version__",
    "at",
    "best",
    "capture_rng",
    "clone",
    "epochs",
    "keep",
    "minutes",
    "open",
    "register_encoder",
    "restore_rng",
    "signals",
    "steps",
]

if TYPE_CHECKING:
    from ckstore.api.checkpoint import Checkpoint
    from ckstore.api.repo import Repo, open  # noqa: A004
    from ckstore.api.sharing import clone
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
    from ckstore.train.preemption import Preempted
    from ckstore.train.resume import Resumed
    from ckstore.train.rng import capture_rng, restore_rng
    from ckstore.train.run import Run
    from ckstore.train.saver import Save
    from ckstore.train.triggers import Trigger, at, best, epochs, minutes, signals, steps


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'ckstore' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
