"""tag: list, make and delete tags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckstore.checkpoint.refs import RefsMoved, describe_ref, move_refs
from ckstore.errors import InvalidInput, NoRevision, nearest
from ckstore.graph.revision import check_ref_name, resolve
from ckstore.storage.record import TAGS, RefMove

if TYPE_CHECKING:
    from ckstore.checkpoint.refs import RefInfo
    from ckstore.repository import Repository


@dataclass(frozen=True)
class TagOptions:
    """A tag `name` for the commit that `revision` names; with `force` it may leave another commit for it.

    With `dry_run` it is only said what would move.
    """

    name: str
    now_ns: int
    revision: str = "HEAD"
    force: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class DeleteTagOptions:
    """The tag to delete; with `dry_run` only said."""

    name: str
    now_ns: int
    dry_run: bool = False


def list_tags(repository: Repository) -> tuple[RefInfo, ...]:
    """All tags by name. One whose commit cannot be read is listed too."""
    commits = repository.commits()
    return tuple(describe_ref(name, id, commits) for name, id in sorted(commits.tags.items()))


def create_tag(repository: Repository, options: TagOptions) -> RefsMoved:
    """Name a commit.

    Raises `InvalidInput` for a name that is none or, unless forced, taken; `NoRevision`; `Conflict` where another moved
    the tag meanwhile.
    """
    check_ref_name(options.name, "tag")
    commits = repository.commits()
    old = commits.tags.get(options.name)
    if old is not None and not options.force:
        raise InvalidInput(
            f"the tag {options.name!r} is taken, by {old.hex()[:12]}",
            hint=f"choose another name, or `ckstore tag {options.name} {options.revision} --force`",
        )
    id = resolve(options.revision, commits, options.now_ns)
    if id == old:
        return RefsMoved((), None)
    return move_refs(
        repository, "tag", options.now_ns, [RefMove(TAGS + options.name, old, id)], dry_run=options.dry_run
    )


def delete_tag(repository: Repository, options: DeleteTagOptions) -> RefsMoved:
    """Delete a tag; its commit stays. Raises `NoRevision`, `Conflict` where another moved it meanwhile."""
    commits = repository.commits()
    old = commits.tags.get(options.name)
    if old is None:
        hint = nearest(options.name, sorted(commits.tags)) or "`ckstore tag` lists them"
        raise NoRevision(f"no tag {options.name!r}", hint=hint)
    return move_refs(
        repository, "delete tag", options.now_ns, [RefMove(TAGS + options.name, old, None)], dry_run=options.dry_run
    )
