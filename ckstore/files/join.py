"""Several drafts as one component: what a folder holds in many files is one thing in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckstore.objects.draft import Draft, DraftTensor
from ckstore.objects.tree import Dict, children, dotted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckstore.objects.draft import DraftBlob, Span
    from ckstore.objects.leaf import Key
    from ckstore.objects.tree import Value

    Valued = Value | DraftTensor | DraftBlob


def under_keys(parts: Sequence[tuple[str, Draft]]) -> tuple[Draft, list[int]]:
    """A dict with each draft under its key, each key once; with it the number of the first span of each."""
    joined = Draft([(None, Dict("dict", len(parts)))])
    firsts = []
    for key, draft in parts:
        firsts.append(len(joined.spans))
        (_, root), *below = _moved(draft.entries, len(joined.spans))
        joined.entries += [(key, root), *below]
        joined.spans += [replace(span, path=_under(key, span)) for span in draft.spans]
    return joined, firsts


def side_by_side(drafts: Sequence[Draft]) -> tuple[Draft, list[int]] | None:
    """One dict with the entries of all; with it the number of the first span of each.

    None where they are no plain dicts, or a key stands in two of them.
    """
    roots = [draft.entries[0][1] for draft in drafts]
    if any(not isinstance(root, Dict) or root.kind not in _PLAIN or root.attributes for root in roots):
        return None
    keys = [key for draft in drafts for key in _top_keys(draft)]
    if len(set(keys)) != len(keys):
        return None
    joined = Draft([(None, Dict("dict", len(keys)))])
    firsts = []
    for draft in drafts:
        firsts.append(len(joined.spans))
        joined.entries += _moved(draft.entries[1:], len(joined.spans))
        joined.spans += draft.spans
    return joined, firsts


def depth(draft: Draft) -> int:
    """How many containers lie inside one another, at most."""
    deepest = 0
    left: list[int] = []  # children still to come, for each open container
    for _, value in draft.entries:
        if left:
            left[-1] -= 1
        if count := children(value):
            left.append(count)
            deepest = max(deepest, len(left))
        while left and not left[-1]:
            left.pop()
    return deepest


_PLAIN = frozenset({"dict", "OrderedDict"})


def _moved(entries: Iterable[tuple[Key, Valued]], by: int) -> list[tuple[Key, Valued]]:
    """Entries whose spans have moved up by `by` places."""
    return [
        (key, replace(value, span=value.span + by) if isinstance(value, DraftTensor) else value)
        for key, value in entries
    ]


def _top_keys(draft: Draft) -> list[Key]:
    """The keys of the root's own children."""
    keys: list[Key] = []
    left: list[int] = []  # children still to come, for each open container below the root
    for key, value in draft.entries[1:]:
        if left:
            left[-1] -= 1
        else:
            keys.append(key)
        if count := children(value):
            left.append(count)
        while left and not left[-1]:
            left.pop()
    return keys


def _under(key: str, span: Span) -> str:
    path = dotted((key,))
    return f"{path}.{span.path}" if span.path else path
