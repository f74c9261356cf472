"""What an index says: equal for one that followed the journal and one made anew, whatever came and went."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckstore.storage.view import View

if TYPE_CHECKING:
    from ckstore.repository import Repository

_TABLES = ("frames", "spares", "commits", "refs", "holes", "condemned", "journal")


def indexed(repository: Repository) -> dict[str, list[Any]]:
    """All rows of the tables, and the packs in the order they came."""
    with repository.store.index.reading() as view:
        return {
            **{name: list(view.rows(name)) for name in _TABLES},
            "packs": View.packs(view),
            "cursor": [view.get("meta", b"cursor")],
        }
