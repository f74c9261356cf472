"""Histories as far as they are here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckstore.graph.history import unseen

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckstore.objects.commit import Commit
    from ckstore.sync.local import Local


def ancestors_here(local: Local, tips: Iterable[bytes]) -> set[bytes]:
    """Those of `tips` that are here, and all commits before them."""
    tips = set(tips)
    seen: set[bytes] = set()
    for _ in unseen(local.known(tips), seen, local.commit):
        pass
    return seen


def new_commits(local: Local, tips: Iterable[bytes], seen: Iterable[bytes]) -> list[tuple[bytes, Commit]]:
    """The commits that `tips` lead to and that are not in `seen`, a commit after its parents."""
    commits = dict(unseen(tips, set(seen), local.commit))
    ordered: list[tuple[bytes, Commit]] = []
    done: set[bytes] = set()
    for tip in commits:
        pending = [tip]
        while pending:
            id = pending[-1]
            waiting = [parent for parent in commits[id].parents if parent in commits and parent not in done]
            if waiting and id not in done:
                pending += waiting
                continue
            pending.pop()
            if id not in done:
                done.add(id)
                ordered.append((id, commits[id]))
    return ordered
