"""How a run behaves, as its caller says it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckstore.errors import InvalidInput
from ckstore.graph.revision import check_ref_name
from ckstore.train.triggers import Trigger

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckstore.graph.policy import Policy


@dataclass(frozen=True)
class RunOptions:
    """How a run behaves.

    `name` is its branch. `every` says when it commits, `keep` what the branch keeps (gc follows each commit). `start`
    is the revision a new branch begins from. `busy` says what happens to a commit that is due while one is under way:
    `skip` or `wait`. `overlap`: what only the optimizer changes is copied during the next step. `at_end`: commit when
    the run ends. `save_on_exception`: also when the training fails. A run that is asked to end within a step waits
    `patience_s` for the step's end before it saves as it is. `push` names the remote that each commit is pushed to in
    the background; the end of the run waits `push_patience_s` for the last. `clock` gives ns since 1970 UTC and the
    distance from UTC in minutes, `version` is ckstore's.
    """

    name: str
    clock: Callable[[], tuple[int, int]]
    version: str
    author: str = ""
    every: Trigger | None = None
    keep: Policy | None = None
    start: str | None = None
    busy: str = "skip"
    overlap: bool = True
    at_end: bool = True
    save_on_exception: bool = False
    patience_s: float = 15.0
    threads: int | None = None
    preset: str | None = None
    allow_pickle: bool = False
    push: str | None = None
    push_patience_s: float = 60.0

    def __post_init__(self) -> None:
        """Raise `InvalidInput` for what cannot be meant."""
        check_ref_name(self.name, "branch")
        if self.busy not in ("skip", "wait"):
            raise InvalidInput(f"busy={self.busy!r} is neither 'skip' nor 'wait'")
        if self.every is not None and not isinstance(self.every, Trigger):
            raise InvalidInput(f"every={self.every!r} is no trigger", hint="every=ckstore.steps(500)")
        if self.threads is not None and self.threads < 1:
            raise InvalidInput(f"{self.threads} threads cannot do any work", hint="pass threads=1 or more")
