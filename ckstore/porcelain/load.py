"""load: a commit's state put into live objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckstore.checkpoint.state import opened
from ckstore.errors import InvalidInput
from ckstore.objects.structure import nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckstore.checkpoint.state import Elsewhere, LoadOptions
    from ckstore.objects.commit import Commit
    from ckstore.repository import Repository
    from ckstore.torch.load_into import LoadReport


def load_into(
    repository: Repository,
    commit: Commit,
    targets: Mapping[str, object],
    options: LoadOptions,
    *,
    strict: bool,
    elsewhere: Elsewhere | None = None,
) -> LoadReport:
    """Load components into objects with `load_state_dict`, all of them checked before any is touched."""
    from ckstore.torch.load_into import check, put
    from ckstore.torch.unflatten import unflatten

    if options.only is not None:
        raise InvalidInput("only= and into= exclude each other", hint="name the components to load in into=")
    names = [entry.name for entry in commit.components]
    missing = [name for name in targets if name not in names]
    if missing:
        raise InvalidInput(
            f"the commit has no component {', '.join(map(repr, missing))}",
            why=f"it has {', '.join(names)}",
            hint=nearest(missing[0], names),
        )
    states = {}
    for name in targets:
        tree, reader = opened(repository, commit, name, elsewhere)
        states[name] = unflatten(tree, reader, allow_pickle=options.allow_pickle)
    report = check(targets, states, strict=strict)
    put(targets, states, strict=strict)
    return report
