"""Who is told what a run does, in this process: for test kits and the like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

OBSERVERS: list[Callable[[str, Any, Any], None]] = []
"""Each is called with what happened, the run, and more of it.

`("begun", run, None)` once resumed or begun anew; `("batch", run, batch)` before a batch is handed out; `("logged",
run, metrics)`; `("step", run, None)` when a step is done, before triggers are asked.
"""


def tell(event: str, run: Any, more: Any = None) -> None:
    """Tell every observer."""
    for observer in OBSERVERS:
        observer(event, run, more)
