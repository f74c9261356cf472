"""Objects that are damaged here are brought from a remote once more."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ckstore.digest import Kind
from ckstore.errors import Format, Integrity, NotFound
from ckstore.storage.packer import META
from ckstore.sync.chains import Chains
from ckstore.sync.needs import Need
from ckstore.sync.repository_local import RepositoryLocal
from ckstore.sync.survey import survey
from ckstore.sync.transfer import Transfer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ckstore.progress import Progress
    from ckstore.remote.interface import Remote
    from ckstore.repository import Repository
    from ckstore.storage.examine import Examined
    from ckstore.storage.location import Location
    from ckstore.sync.survey import Survey

_STREAM = "recovered"


class Recovered(NamedTuple):
    """How many objects came, and the bytes of their payloads."""

    objects: int
    stored_bytes: int


class SoundLocal(RepositoryLocal):
    """A repository of which only that is known to be here which an examination found sound."""

    def __init__(self, repository: Repository, examined: Examined) -> None:
        super().__init__(repository)
        self._examined = examined

    def known(self, ids: Iterable[bytes]) -> set[bytes]:
        return {id for id in ids if id in self._examined.best}

    def chain(self, id: bytes) -> Sequence[Location]:
        """The index's chain, if it is one of sound frames: what hangs on it is read along it."""
        try:
            chain = super().chain(id)
        except Integrity:
            return ()
        return chain if all(self._examined.best.get(place.frame.id) == place for place in chain) else ()


def findable(remote: Remote, local: SoundLocal, lost: Iterable[bytes]) -> tuple[Survey, dict[bytes, Need]]:
    """Those of `lost` that a remote has. Raises whatever the remote raises, and `Integrity` where it is damaged."""
    found = survey(remote, local)
    chains = Chains(found.catalog.locate)
    needs: dict[bytes, Need] = {}
    for id in lost:
        reached = chains.reach(id)
        if reached is not None:
            kind = Kind(reached.frame.kind)
            needs[id] = Need(kind, _STREAM if kind is Kind.CHUNK else META, "uint8")
    return found, needs


def recover(
    remote: Remote, local: SoundLocal, lost: Iterable[bytes], time_ns: int, jobs: int, progress: Progress
) -> Recovered:
    """Bring those of `lost` that a remote has, each verified; what is damaged there too is left out.

    Raises whatever the remote raises but damage of its packs.
    """
    found, needs = findable(remote, local, lost)
    pending = [needs] if needs else []
    objects = stored_bytes = 0
    while pending:
        some = pending.pop()
        try:
            transfer = Transfer(remote, local, found.catalog, some)
            transfer.run(time_ns, jobs, progress)
        except (Integrity, Format, NotFound):
            if len(some) > 1:
                pending += _halves(some)
            continue
        objects += len(some)
        stored_bytes += transfer.stored_bytes
    return Recovered(objects, stored_bytes)


def _halves(needs: Mapping[bytes, Need]) -> list[dict[bytes, Need]]:
    items = list(needs.items())
    middle = len(items) // 2
    return [dict(items[:middle]), dict(items[middle:])]
