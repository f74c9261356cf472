"""Broken versions of the real code, made by replacing one function for a while. The harness must catch each.

A mutant is given the machine it runs on, and lasts as long as its context.
"""

from __future__ import annotations

import errno
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ckstore import durable
from ckstore.checkpoint.since import Since
from ckstore.durable import DurableFile
from ckstore.objects.encoding import decode_commit
from ckstore.storage import journal, transaction
from ckstore.storage.collector import Collector
from ckstore.storage.inventory import Inventory
from ckstore.storage.journal import Cursor, Journal, JournalFrame
from ckstore.storage.record import Record
from ckstore.storage.recovery import Recovery
from ckstore.storage.scratch import Scratch
from ckstore.storage.store import Store
from ckstore.storage.transaction import Transaction
from tests.crash.recorder import failing
from tests.crash.replaced import replaced
from tests.crash.scenarios import (
    collected,
    failed,
    gc_beside_a_save,
    killed_at_the_commit_point,
    plain,
    rotated,
    save_beside_a_gc,
    two_writers,
)
from tests.crash.states import label

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from ckstore.storage.follower import NewPack
    from ckstore.storage.record import PackEntry
    from tests.crash.machine import Machine
    from tests.crash.scenarios import Scenario

    Mutate = Callable[[Machine], AbstractContextManager[None]]


def _without(owner: object, name: str, result: object = None) -> Mutate:
    """A function that does nothing any more."""

    def mutate(_: Machine) -> AbstractContextManager[None]:
        return replaced(owner, name, lambda *_arguments, **_options: result)

    return mutate


def _unsynced_files(suffix: str) -> Mutate:
    sync = DurableFile.sync

    def mutate(_: Machine) -> AbstractContextManager[None]:
        def without(file: DurableFile) -> None:
            if file.path.suffix != suffix:
                sync(file)

        return replaced(DurableFile, "sync", without)

    return mutate


def _unsynced_folders(name: str) -> Mutate:
    sync = durable.sync_folder

    def mutate(_: Machine) -> AbstractContextManager[None]:
        def without(path: Path) -> None:
            if path.name != name:
                sync(path)

        return replaced(durable, "sync_folder", without)

    return mutate


@contextmanager
def _record_before_rename(_: Machine) -> Iterator[None]:
    """W4, then the renames of W3."""
    rename, append = durable.rename, Journal.append
    waiting: list[tuple[Path, Path]] = []

    def later(source: Path, target: Path) -> None:
        if target.suffix == ".pack":
            waiting.append((source, target))
        else:
            rename(source, target)

    def append_first(self: Journal, cursor: Cursor, record: Record) -> JournalFrame:
        frame = append(self, cursor, record)
        for source, target in waiting:
            rename(source, target)
            durable.sync_folder(target.parent)
        waiting.clear()
        return frame

    with ExitStack() as stack:
        stack.enter_context(replaced(durable, "rename", later))
        stack.enter_context(replaced(Journal, "append", append_first))
        yield


@contextmanager
def _acknowledged_too_early(machine: Machine) -> Iterator[None]:
    """The caller hears of success before W4."""
    record_it = Store.record

    def record_after(self: Store, record: Record, packs: Sequence[NewPack]) -> None:
        for id, data in (found for pack in packs for found in pack.commits.items()):
            machine.acknowledge(id.hex(), label(decode_commit(data).message))
        record_it(self, record, packs)

    with replaced(Store, "record", record_after):
        yield


@contextmanager
def _index_before_journal(_: Machine) -> Iterator[None]:
    """W5, then W4: LMDB leads."""

    def record_last(self: Store, record: Record, packs: Sequence[NewPack]) -> None:
        new = {pack.entry.name: pack for pack in packs}

        def rows(entry: PackEntry, _: bool) -> NewPack:
            return new[entry.name]

        cursor = self._cursor()
        frame = journal._frame(record, cursor.seq + 1, cursor.hash, cursor.segment, cursor.offset)
        self.index.apply(cursor, [frame], rows)
        self.journal.append(cursor, record)

    with replaced(Store, "record", record_last):
        yield


@contextmanager
def _segment_used_again(_: Machine) -> Iterator[None]:
    """That an append failed is forgotten."""
    append = Journal.append

    def forgetful(self: Journal, cursor: Cursor, record: Record) -> JournalFrame:
        try:
            return append(self, cursor, record)
        finally:
            self.unsettled = -1

    with replaced(Journal, "append", forgetful), replaced(Store, "_abandon", lambda _self, _cursor: None):
        yield


def _unsettled(_: Machine) -> AbstractContextManager[None]:
    """Recovery believes that all it reads is durable."""
    return replaced(Recovery, "_settled", lambda _self, frames: frames)


def _no_bases(_: Machine) -> AbstractContextManager[None]:
    return replaced(Inventory, "with_bases", lambda _self, chosen, _cut=None: chosen)


def _folder_made_without_sync(_: Machine) -> AbstractContextManager[None]:
    def make(path: Path) -> None:
        vars(durable)["os"].makedirs(path, exist_ok=True)

    return replaced(durable, "make_folder", make)


@contextmanager
def _files_before_record(_: Machine) -> Iterator[None]:
    """W6 the wrong way round: condemned packs are unlinked, then the record says so."""
    replace = Collector.replace

    def unlink_first(self: Collector, record: Record, condemned: Sequence[PackEntry], *others: Any) -> int | None:
        for entry in condemned:
            durable.unlink(self._store.layout.pack(entry.name))
        return replace(self, record, condemned, *others)

    with replaced(Collector, "replace", unlink_first):
        yield


@contextmanager
def _holes_not_recorded(_: Machine) -> Iterator[None]:
    """What gc drops is not noted as absent."""
    replace = Collector.replace

    def without(self: Collector, record: Record, *others: Any) -> int | None:
        return replace(self, Record(record.time_ns, record.reason), *others)

    with replaced(Collector, "replace", without):
        yield


class Mutant(NamedTuple):
    """What is broken, and the run in which it shows."""

    mutate: Mutate
    scenario: Scenario


FAILED_SYNC = failed(partial(failing, "fdatasync", 3, errno.EIO))
"""The third sync of files in a save is the journal's."""

MUTANTS = {
    "W2: packs are not synced": Mutant(_unsynced_files(".part"), plain),
    "W3 and W4 swapped: the record before the rename": Mutant(_record_before_rename, plain),
    "W3: the ref is not checked": Mutant(_without(transaction, "_refused"), two_writers),
    "W3: packs/ is not synced": Mutant(_unsynced_folders("packs"), plain),
    "W4: the journal is not synced": Mutant(_unsynced_files(".journal"), plain),
    "W4: acknowledged before it": Mutant(_acknowledged_too_early, plain),
    "W4: the folder of a new segment is not synced": Mutant(_unsynced_folders("journal"), rotated),
    "W4: a torn tail is not cut": Mutant(_without(Journal, "cut"), plain),
    "W4: a segment is used again after a failed sync": Mutant(_segment_used_again, FAILED_SYNC),
    "W5: the index before the journal": Mutant(_index_before_journal, plain),
    "recovery does not sync what it follows": Mutant(_unsettled, killed_at_the_commit_point),
    "recovery leaves what dead saves left": Mutant(_without(Scratch, "_sweep"), plain),
    "W3: what a save relies on is not looked at": Mutant(_without(Transaction, "_vanished", []), gc_beside_a_save),
    "W6: gc does not look at what was saved meanwhile": Mutant(_without(Since, "__call__"), save_beside_a_gc),
    "W6: what was removed is forgotten before that is durable": Mutant(_unsynced_folders("packs"), collected),
    "W6: files go before the record": Mutant(_files_before_record, collected),
    "W6: gc forgets what deltas hang on": Mutant(_no_bases, collected),
    "W6: what gc drops is not noted": Mutant(_holes_not_recorded, collected),
    "W2: packs that replace others are not synced": Mutant(_unsynced_files(".part"), collected),
    "the repository's folder is not synced": Mutant(_folder_made_without_sync, plain),
}
