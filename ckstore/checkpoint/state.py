"""A commit's state in memory, whole or in part."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ckstore.checkpoint.absent import absent, check_present
from ckstore.errors import InvalidInput
from ckstore.objects.reader import ObjectReader, read_tree
from ckstore.objects.structure import Structure, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckstore.objects.commit import Commit, Component
    from ckstore.repository import Repository


@dataclass(frozen=True)
class LoadOptions:
    """`only`: patterns over dotted paths, such as `model.*` (None: all). `allow_pickle` lets stored pickles run."""

    only: Sequence[str] | None = None
    allow_pickle: bool = False


class Elsewhere(ObjectReader, Protocol):
    """Where data is read that is not here: `sync.remote_objects.RemoteObjects`. What is here it reads here."""

    def check_present(self, commit: Commit, component: str) -> None:
        """Raise `Absent` where the data of a component is not there either."""


class Opened(NamedTuple):
    """One component's structure, and what its data is to be read with."""

    structure: Structure
    reader: ObjectReader


def structure(repository: Repository, commit: Commit, component: str) -> Structure:
    """One component's structure. Raises `InvalidInput` where the commit has none of that name, `Absent`."""
    return opened(repository, commit, component).structure


def opened(repository: Repository, commit: Commit, component: str, elsewhere: Elsewhere | None = None) -> Opened:
    """A component to be read, `elsewhere` if it is absent here.

    Raises `InvalidInput` where the commit has none of that name, `Absent`.
    """
    entry = next((entry for entry in commit.components if entry.name == component), None)
    if entry is None:
        names = [entry.name for entry in commit.components]
        raise InvalidInput(
            f"the commit has no component {component!r}",
            why=f"it has {', '.join(names)}",
            hint=nearest(component, names),
        )
    return _opened(repository, commit, entry, absent(repository, commit), elsewhere)


def _opened(
    repository: Repository, commit: Commit, entry: Component, gone: Mapping[str, str], elsewhere: Elsewhere | None
) -> Opened:
    """A component of the commit, of which those in `gone` are absent here. Raises `Absent`."""
    reader: ObjectReader = repository.store.objects
    if elsewhere is None:
        check_present(repository, gone, entry.name)
    elif entry.name in gone:
        elsewhere.check_present(commit, entry.name)
        reader = elsewhere
    return Opened(Structure(entry.name, read_tree(reader, entry.tree)), reader)


def closest(patterns: Sequence[str], paths: Sequence[str]) -> str:
    """The hint for patterns that match none of `paths`."""
    return nearest(patterns[0], paths) or "a pattern is a dotted path, or part of one with *: model.*"


def _may_match(component: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern may select anything in a component that cannot be looked at."""
    return any(fnmatchcase(component, pattern.partition(".")[0]) for pattern in patterns)


def load(repository: Repository, commit: Commit, options: LoadOptions, elsewhere: Elsewhere | None = None) -> object:
    """The state as it was committed, in new CPU tensors; with `only`, what the patterns select.

    Every byte is hashed before it is returned. Raises `Absent` where a component that is asked for is not here, nor
    `elsewhere`; `Integrity`, `Format`, `InvalidInput`.
    """
    from ckstore.torch.unflatten import ABSENT, unflatten  # torch: only where tensors are made

    state: dict[str, object] = {}
    seen: list[str] = []
    gone = absent(repository, commit)
    for entry in commit.components:
        if entry.name.startswith("@"):
            continue
        if entry.name in gone and options.only is not None and not _may_match(entry.name, options.only):
            continue
        tree, reader = _opened(repository, commit, entry, gone, elsewhere)
        wanted = None if options.only is None else tree.selected(options.only)
        if wanted is not None:
            seen += [tree.path(node.ordinal) for node in tree.nodes]
        value = unflatten(tree, reader, wanted=wanted, allow_pickle=options.allow_pickle)
        if value is not ABSENT:
            state[entry.name] = value
    if not state and options.only is not None:
        hint = closest(options.only, seen) if options.only else "leave only out to load all"
        raise InvalidInput(f"nothing matches {', '.join(options.only)}", hint=hint)
    if not state and commit.components:
        raise InvalidInput(
            "the commit holds an opaque file, not a state", hint="`ckstore checkout REV -o PATH` writes the file"
        )
    return next(iter(state.values())) if commit.bare else state
