"""What one process did in one run, step by step, as its events tell."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckstore.testing.resume_events import Event


@dataclass
class After:
    """What happened once so many steps were done: the state then, and what came before the next step was done."""

    state: Mapping[str, str] | None = None
    batches: list[Mapping[str, str]] = field(default_factory=list)
    logged: list[Mapping[str, str]] = field(default_factory=list)


@dataclass
class Stretch:
    """A run from where it was begun or resumed: `after` by the number of steps done. `cut`: the process was killed."""

    begun: Event
    after: dict[int, After] = field(default_factory=dict)
    end: Event | None = None
    cut: bool = False

    @property
    def last(self) -> int:
        """Steps that were done in the end."""
        return max(self.after, default=self.begun.steps)


def stretches(events: Sequence[Event], *, cut: bool) -> dict[str, Stretch]:
    """The stretches of one process, by run. A run that it began twice counts from the second time on."""
    found: dict[str, Stretch] = {}
    for event in events:
        if event.kind == "begun":
            found[event.run] = Stretch(event, cut=cut)
        elif event.run in found:
            stretch = found[event.run]
            if event.kind == "end":
                stretch.end = event
                continue
            after = stretch.after.setdefault(event.steps, After())
            if event.kind == "step":
                after.state = event.facts
            elif event.kind == "batch":
                after.batches.append(event.facts)
            elif event.kind == "logged":
                after.logged.append(event.facts)
    return found
