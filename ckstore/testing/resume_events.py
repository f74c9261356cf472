"""What a training that is watched tells of itself, and what it is to be watched for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True)
class Event:
    """Something that happened in a run whose `steps` were done then.

    `begun` has what was restored, beside what the commit holds (`expected`; empty where it began anew); `batch`,
    `logged` and `step` what was there; `end` how it was left; `killing` and `uncommitted`
    come instead of the rest.
    """

    kind: str
    run: str
    steps: int
    facts: Mapping[str, str] = field(default_factory=dict)
    expected: Mapping[str, str] = field(default_factory=dict)
    commit: str = ""


@dataclass(frozen=True)
class Job:
    """What a process is to do: `train` with the repository in `folder`, until the step after `kill_after` at most.

    `seed` is that of the global generators before it begins.
    """

    train: Callable[..., object]
    folder: str
    args: tuple[Any, ...]
    kill_after: int | None
    timeout_s: float
    seed: int = 0
