"""Absent data is brought from a remote: holes here are filled, where the remote has what they need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckstore.errors import Absent, Conflict
from ckstore.progress import SILENT
from ckstore.storage.record import FETCH, Filled, Record
from ckstore.sync.needs import Need, add_tree
from ckstore.sync.reader import RemoteReader
from ckstore.sync.survey import survey
from ckstore.sync.transfer import Transfer

if TYPE_CHECKING:
    from collections.abc import Collection

    from ckstore.progress import Progress
    from ckstore.remote.interface import Remote
    from ckstore.sync.local import Local


@dataclass(frozen=True)
class FillRequest:
    """Which holes to fill: commits and names of components. `time_ns` counts from 1970 UTC.

    With `dry_run` it is only said what would come.
    """

    holes: Collection[tuple[bytes, str]]
    time_ns: int
    jobs: int = 4
    dry_run: bool = False


def fill(remote: Remote, local: Local, request: FillRequest, progress: Progress = SILENT) -> int:
    """Bring the data of holes here; the bytes of the payloads that came.

    Raises `Absent` where the remote lacks some of it too, `Integrity` where something there is damaged, `Conflict`
    where gc works here meanwhile: try again.
    """
    watch = local.watch()
    found = survey(remote, local)
    reader = RemoteReader(remote, local, found.catalog)
    needs: dict[bytes, Need] = {}
    filled = []
    for id, name in request.holes:
        reason = found.holes.get(id, {}).get(name)
        if reason is not None:
            raise Absent(f"{remote.url} lacks {name!r} of {id.hex()[:12]} too: {reason}", hint="ask another remote")
        trees = {component.name: component.tree for component in local.commit(id).named()}
        add_tree(needs, reader, trees[name], name)
        filled.append(Filled(id, name))
    transfer = Transfer(remote, local, found.catalog, needs)
    if request.dry_run:
        return transfer.stored_bytes
    transfer.run(request.time_ns, request.jobs, progress)

    def check() -> None:
        if watch() and len(local.known(needs)) != len(needs):
            raise Conflict("gc has taken what was fetched", hint="try again")

    with local.incoming() as incoming:
        incoming.publish(Record(request.time_ns, FETCH, filled=tuple(filled)), check)
    return transfer.stored_bytes
