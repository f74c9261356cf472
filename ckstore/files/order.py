"""What a checkpoint's name says: which step it is of, and which others are of the same run."""

from __future__ import annotations

import re

_STEP = re.compile(r"(?:global[_-]?)?step[s]?[=_-]?(\d+)|(?:checkpoint|ckpt|iter(?:ation)?)[=_-]?(\d+)", re.IGNORECASE)
_EPOCH = re.compile(r"epoch[=_-]?(\d+)", re.IGNORECASE)
_DIGITS = re.compile(r"(\d+)")
_MOST_DIGITS = 18


def explicit_step_in(name: str) -> int | None:
    """The step that `name` says in words: `step_100.pt`, `epoch=3-step=1200.ckpt`, `checkpoint-500/`."""
    for match in reversed(list(_STEP.finditer(name))):
        return _number(match[1] or match[2])
    return None


def step_in(name: str) -> int | None:
    """The last number in a name that is not its epoch's, if there is one."""
    bare = _EPOCH.sub("", name)
    numbers = _DIGITS.findall(bare)
    return _number(numbers[-1]) if numbers else None


def epoch_in(name: str) -> int | None:
    """The epoch that `name` says, if any."""
    found = _EPOCH.search(name)
    return None if found is None else _number(found[1])


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sorts names as people count: `step_9` before `step_10`."""
    return tuple(
        (1, int(part), "") if part.isdecimal() else (0, 0, part)
        for part in _DIGITS.split(name.replace("/", "\0"))
        if part
    )


def series_of(name: str) -> str:
    """The name with its last part that has a number made alike for all of a run: `run1/step_#.pt`."""
    parts = name.split("/")
    for place in reversed(range(len(parts))):
        if _DIGITS.search(parts[place]):
            parts[place] = _DIGITS.sub("#", parts[place])
            break
    return "/".join(parts)


def _number(text: str) -> int | None:
    return int(text) if len(text) <= _MOST_DIGITS else None
