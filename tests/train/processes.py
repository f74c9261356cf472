"""How the tests start processes for trainings: forked off one that has loaded torch."""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext


def loaded() -> BaseContext:
    """Processes in which nothing has happened but imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torch._dynamo", "ckstore.testing.resume_watch", "ckstore.train.run"])
    return context
