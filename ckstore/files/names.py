"""Names of committed files, and links among them: what cannot leave the folder it is put into."""

from __future__ import annotations

import os

HERE = "."
"""The name of the folder that was named itself."""


def is_inside(name: str) -> bool:
    """Whether `name` is a path below the folder it is put into, written in the only way there is: `a/b`."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return "\0" not in name and all(part not in ("", HERE, "..") for part in name.split("/"))


def leads_inside(name: str, text: str) -> bool:
    """Whether a link called `name` that says `text` stays in the folder, whatever other such links are in it.

    It may go up only at its start, from where it lies: going up from another link could lead anywhere.
    """
    steps = [step for step in text.split("/") if step != HERE]
    down = next((place for place, step in enumerate(steps) if step != ".."), len(steps))
    bad = not text or text.startswith("/") or "\0" in text
    return not bad and down <= name.count("/") and ".." not in steps[down:]
