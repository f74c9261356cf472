"""repair: what is sound of damaged packs is kept, what is lost is fetched or noted, and the index is made anew."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckstore.checkpoint.losses import Meanwhile, losses
from ckstore.errors import StoreFull
from ckstore.progress import SILENT
from ckstore.storage.anew import make_journal_anew
from ckstore.storage.collector import REPAIR, Outdated, Rewriting, collecting, stray_packs
from ckstore.storage.examine import Examiner
from ckstore.storage.record import Record
from ckstore.storage.salvage import salvage, salvageable
from ckstore.storage.verified import write_verified
from ckstore.sync.recover import SoundLocal, findable, recover

if TYPE_CHECKING:
    from ckstore.progress import Progress
    from ckstore.remote.interface import Remote
    from ckstore.repository import Repository
    from ckstore.storage.anew import JournalAnew
    from ckstore.storage.collector import Collector
    from ckstore.storage.layout import Layout

_TRIES = 5


@dataclass(frozen=True)
class RepairOptions:
    """`now_ns` since 1970 UTC. With `dry_run` nothing changes, and read-only repositories will do.

    `jobs` downloads run at once, where a remote is asked for what is lost.
    """

    now_ns: int
    dry_run: bool = False
    jobs: int = 4


@dataclass(frozen=True)
class DamagedPack:
    """A pack that is replaced: what is wrong, how many of its objects can be kept, and how many frames cannot.

    Of a pack that is itself sound but for what other packs lost, `what` is empty.
    """

    name: str
    what: str
    size_bytes: int
    salvaged: int
    unusable: int


@dataclass(frozen=True)
class LostComponent:
    """A component of a commit that cannot be read any more."""

    commit: str
    component: str


@dataclass(frozen=True)
class LostCommit:
    """A commit that is lost itself; `named_by` are the refs and commits that lead to it."""

    commit: str
    named_by: tuple[str, ...]


@dataclass(frozen=True)
class RepairResult:
    """What was wrong, and what became of it; in a dry run what would.

    `lost` and `lost_commits` is all that is lost and was not noted before, `lost_objects` how many objects that is.
    `restored_commits` were written anew from the index, `found` are components noted as lost before that are all here
    again. `quarantined` are files now in `quarantine/`: damaged packs, and packs that no record names. `journal_mended`
    says that the journal was damaged and has been written anew from the index. `fetched_objects` came from a
    remote; in a dry run they are still counted as lost. `record` is the number of the record that says so, None where
    there was nothing to say or in a dry run.
    """

    packs: tuple[DamagedPack, ...]
    salvaged_objects: int
    salvaged_bytes: int
    lost_objects: int
    lost: tuple[LostComponent, ...]
    lost_commits: tuple[LostCommit, ...]
    restored_commits: tuple[str, ...]
    found: tuple[LostComponent, ...]
    quarantined: tuple[str, ...]
    read_bytes: int
    journal_mended: bool = False
    reserve_released: bool = False
    record: int | None = None
    fetched_objects: int = 0
    fetched_bytes: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing is lost."""
        return not self.lost and not self.lost_commits


@dataclass
class _Done:
    """What a repair has done so far: it may take several tries."""

    record: int | None = None
    journal_mended: bool = False
    reserve_released: bool = False
    quarantined: list[str] = field(default_factory=list)
    fetched_objects: int = 0
    fetched_bytes: int = 0


class _Plan:
    """What is wrong with a repository."""

    def __init__(self, repository: Repository, examiner: Examiner, progress: Progress) -> None:
        self.repository = repository
        self.examined = examiner.examine(progress)
        self.losses = losses(repository, repository.commits_at(self.examined.refs), self.examined)

    @property
    def lost(self) -> set[bytes]:
        """Objects that are needed and lost, as far as that can be known."""
        return self.losses.objects | self.losses.commits.keys()

    @property
    def rotten(self) -> list[bytes]:
        """Packs whose own bytes are damaged, condemned ones too."""
        return [*self.examined.faults, *self.examined.condemned]

    def result(self, done: _Done) -> RepairResult:
        """As people read it."""
        examined, lost = self.examined, self.losses
        places = salvageable(examined)
        kept = dict.fromkeys((entry.name for entry in examined.damaged), 0)
        for place in places:
            kept[place.pack] += 1
        packs = [
            DamagedPack(
                entry.name.hex(),
                examined.faults.get(entry.name, ""),
                entry.size_bytes,
                kept[entry.name],
                examined.unusable.get(entry.name, 0),
            )
            for entry in examined.damaged
        ]
        return RepairResult(
            packs=tuple(packs),
            salvaged_objects=len(places),
            salvaged_bytes=sum(place.frame.stored_length for place in places),
            lost_objects=len(lost.objects),
            lost=tuple(LostComponent(hole.commit.hex(), hole.component) for hole in lost.holes),
            lost_commits=tuple(LostCommit(id.hex(), tuple(by)) for id, by in lost.commits.items()),
            restored_commits=tuple(id.hex() for id in lost.copies),
            found=tuple(LostComponent(one.commit.hex(), one.component) for one in lost.filled),
            quarantined=tuple(done.quarantined),
            read_bytes=sum(entry.size_bytes for entry in examined.packs),
            journal_mended=done.journal_mended,
            reserve_released=done.reserve_released,
            record=done.record,
            fetched_objects=done.fetched_objects,
            fetched_bytes=done.fetched_bytes,
        )


def repair(
    repository: Repository, options: RepairOptions, progress: Progress = SILENT, remote: Remote | None = None
) -> RepairResult:
    """Read everything; replace damaged packs by what is sound of them, note what is lost, make the index anew.

    With `remote` what is lost here and sound there is fetched first; whatever that remote raises is raised then, before
    anything else is changed. Saves go on meanwhile. May be interrupted at any moment and run again. Raises `Locked`
    where a gc or another repair is under way, `SaveFailed` for a read-only repository or where packs cannot be read for
    another reason than damage, `StoreFull`, `Conflict` where saves keep relying on what is lost, `Format` for what a
    newer version wrote. Nothing is lost by any of these.
    """
    store = repository.store
    examiner = Examiner(store)
    if options.dry_run:
        plan = _Plan(repository, examiner, progress)
        mendable = store.mend_journal(dry_run=True)
        done = _Done(journal_mended=mendable, quarantined=[store.layout.pack(name).name for name in plan.rotten])
        if store.may_write and not mendable:
            with store.locked():
                done.quarantined += stray_packs(store)
        if remote is not None and plan.lost:
            _, needs = findable(remote, SoundLocal(repository, plan.examined), plan.lost)
            done.fetched_objects = len(needs)
        return plan.result(done)
    with collecting(store) as collector:
        done = _Done(journal_mended=store.mend_journal(), reserve_released=store.use_reserve())
        for _ in range(_TRIES):
            plan = _Plan(repository, examiner, progress)
            try:
                if remote is not None:
                    plan = _fetched(plan, remote, options, examiner, done, progress)
                _execute(plan, options, collector, done, progress)
            except Outdated as error:
                failure: Outdated | StoreFull = error
            except StoreFull as error:
                if not store.use_reserve(full=True):
                    raise
                done.reserve_released, failure = True, error
            else:
                return plan.result(done)
        raise failure


def _fetched(
    plan: _Plan, remote: Remote, options: RepairOptions, examiner: Examiner, done: _Done, progress: Progress
) -> _Plan:
    """The plan once what is lost has been fetched, as far as the remote has it: trees that come name what else is."""
    asked: set[bytes] = set()
    while lost := plan.lost - asked:
        local = SoundLocal(plan.repository, plan.examined)
        got = recover(remote, local, lost, options.now_ns, options.jobs, progress)
        if not got.objects:
            break
        asked |= lost
        done.fetched_objects += got.objects
        done.fetched_bytes += got.stored_bytes
        plan = _Plan(plan.repository, examiner, progress)
    return plan


def repair_journal(layout: Layout) -> JournalAnew:
    """Where the journal cannot be read and no index knows it: make it anew of what the packs hold, then `repair`.

    Raises `InvalidInput` where the journal can be read, `Locked`, `SaveFailed`.
    """
    return make_journal_anew(layout)


def _execute(plan: _Plan, options: RepairOptions, collector: Collector, done: _Done, progress: Progress) -> None:
    """The record first, then the files: whatever happens in between, the next repair goes on from there."""
    store, examined, lost = plan.repository.store, plan.examined, plan.losses
    record = Record(options.now_ns, REPAIR, holes=tuple(lost.holes), filled=tuple(lost.filled))
    with Rewriting(store) as rewriting:
        commits = salvage(store, examined, lost.copies, rewriting.packer, progress)
        collector.watch(examined.end, Meanwhile(plan.repository, examined, lost))
        done.record = collector.replace(record, examined.damaged, rewriting, commits)
    done.quarantined += collector.set_aside(Record(options.now_ns, REPAIR), plan.rotten)
    done.quarantined += collector.set_aside_strays()
    store.rebuild_index()
    sound = [entry.name for entry in examined.packs if entry not in examined.damaged]
    existing = store.ask(lambda view: [entry.name for entry in view.packs()])
    write_verified(store.layout, sound, options.now_ns, existing=existing)
    store.keep_reserve()
