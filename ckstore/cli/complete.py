"""What a shell is told could follow."""

from __future__ import annotations

from pathlib import Path

import typer  # noqa: TC002 - typer reads the annotation at run time


def revisions(context: typer.Context, incomplete: str) -> list[str]:
    """Branches, tags and the words of revisions that begin so; nothing where there is no repository."""
    from ckstore.cli.context import Settings
    from ckstore.errors import CkstoreError

    folder = context.parent.params.get("repo") if context.parent else None
    try:
        with Settings(Path(folder or ".")).open() as repository:
            commits = repository.commits()
            names = [*commits.branches, *commits.tags, "HEAD", "last", "best:", "step:"]
    except CkstoreError:
        return []
    return [name for name in names if name.startswith(incomplete)]


def remotes(context: typer.Context, incomplete: str) -> list[str]:
    """Names of remotes that begin so; nothing where there is no repository."""
    from ckstore.cli.context import Settings
    from ckstore.errors import CkstoreError

    root = context.find_root()
    try:
        with Settings(Path(root.params.get("repo") or ".")).open() as repository:
            return [name for name in repository.config.remotes if name.startswith(incomplete)]
    except CkstoreError:
        return []
