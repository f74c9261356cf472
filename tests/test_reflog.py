"""What the journal remembers of refs, over all its segments, and how that is taken back."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import ckstore
from ckstore.checkpoint.refs import RefChange, move_refs
from ckstore.digest import NO_ID
from ckstore.errors import Conflict, Integrity, InvalidInput, NoRevision, SaveFailed
from ckstore.storage import store as storage
from ckstore.storage.journal import Cursor, Journal
from ckstore.storage.record import HEAD, PackEntry, Record, RefMove, Snapshot, Symbolic
from tests.committed import put_refs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckstore.porcelain.reflog import ReflogEntry


@pytest.fixture
def rotating(monkeypatch: pytest.MonkeyPatch) -> None:
    """Journal segments end as soon as the rule allows: at four times their snapshot."""
    monkeypatch.setattr(storage, "ROTATE_SIZE", 0)


def said(entries: tuple[ReflogEntry, ...]) -> list[tuple[str, str]]:
    return [(entry.reason, entry.ref) for entry in entries]


def segments(repo: ckstore.Repo) -> list[Path]:
    journal = repo._repository.store.journal
    return [journal.path(segment) for segment in journal.segments()]


# The reflog


def test_every_way_to_move_a_ref(repo: ckstore.Repo) -> None:
    assert repo.reflog() == repo.reflog("HEAD") == repo.reflog("main", limit=0)
    first = repo.commit({"n": 1}, message="one\nand more", step=10, tag="v1").id
    repo.branch("side")
    repo.switch("side")
    second = repo.commit({"n": 2}, message="two").id
    repo.rename_branch("side", "apart")
    repo.tag("v1", "apart", force=True)
    repo.switch("main")
    repo.delete_branch("apart")
    repo.delete_tag("v1")
    told = repo.reflog()
    assert told.cut_short is None
    assert said(told.entries) == [
        ("delete tag", "tags/v1"),
        ("delete branch", "heads/apart"),
        ("checkout", "HEAD"),
        ("tag", "tags/v1"),
        ("rename branch", "heads/apart"),
        ("rename branch", "heads/side"),
        ("rename branch", "HEAD"),
        ("commit", "heads/side"),
        ("checkout", "HEAD"),
        ("branch", "heads/side"),
        ("commit", "heads/main"),
        ("commit", "tags/v1"),
    ]
    assert [entry.seq for entry in told.entries] == [9, 8, 7, 6, 5, 5, 5, 4, 3, 2, 1, 1]
    commit = told.entries[-2]
    assert (commit.old, commit.new, commit.message, commit.step) == (None, first, "one", 10)
    assert commit.time_ns == repo[first].info.time_ns
    retagged, switched, deleted = told.entries[3], told.entries[2], told.entries[1]
    assert (retagged.old, retagged.new, retagged.message, retagged.step) == (first, second, "two", None)
    assert (switched.old, switched.new, switched.message) == ("heads/apart", "heads/main", None)
    assert (deleted.old, deleted.new, deleted.message) == (second, None, None)


def test_one_ref_there_or_not(repo: ckstore.Repo) -> None:
    repo.commit({"n": 1}, tag="twin")
    repo.branch("gone")
    repo.delete_branch("gone")
    repo.branch("twin")
    assert said(repo.reflog("twin").entries) == [("branch", "heads/twin")]
    assert said(repo.reflog("tags/twin").entries) == [("commit", "tags/twin")]
    assert said(repo.reflog("gone").entries) == [("delete branch", "heads/gone"), ("branch", "heads/gone")]
    assert said(repo.reflog("heads/gone", limit=1).entries) == [("delete branch", "heads/gone")]
    assert repo.reflog("HEAD").entries == ()
    with pytest.raises(NoRevision, match="nothing is known of a ref 'mian'") as caught:
        repo.reflog("mian")
    assert caught.value.hint == "did you mean main, twin?"
    with pytest.raises(NoRevision) as caught:
        repo.reflog("gnoe")
    assert caught.value.hint == "did you mean gone?"
    with pytest.raises(InvalidInput):
        repo.reflog(limit=-1)


def test_limits(repo: ckstore.Repo) -> None:
    for number in range(5):
        repo.commit({"n": number}, branch="ab"[number % 2])
    every = repo.reflog().entries
    for limit in range(7):
        assert repo.reflog(limit=limit).entries == every[:limit]
        assert repo.reflog("a", limit=limit).entries == tuple(e for e in every if e.ref == "heads/a")[:limit]


def test_a_commit_that_cannot_be_read_leaves_its_words_out(repo: ckstore.Repo) -> None:
    repo.commit({"n": 1}, message="first")
    put_refs(repo, 5, RefMove("heads/lost", None, bytes(range(32))))
    entry = repo.reflog(limit=1).entries[0]
    assert (entry.seq, entry.time_ns, entry.new, entry.message) == (2, 5, bytes(range(32)).hex(), None)


def test_over_many_segments(repo: ckstore.Repo, rotating: None) -> None:
    ids = [repo.commit({"n": number}, message=str(number)).id for number in range(30)]
    assert len(segments(repo)) > 4
    told = repo.reflog()
    assert told.cut_short is None
    assert [entry.message for entry in told.entries] == [str(number) for number in reversed(range(30))]
    assert [entry.new for entry in told.entries] == ids[::-1]
    assert [entry.old for entry in told.entries] == [*ids[-2::-1], None]
    assert [entry.seq for entry in told.entries] == list(range(30, 0, -1))
    with ckstore.open(repo.path, index="cache", cache=repo.path / "cache") as other:
        assert other.reflog() == told


# The journal, read backwards


def record(number: int, packs: int = 0) -> Record:
    entries = tuple(PackEntry(os.urandom(16), os.urandom(32), 1) for _ in range(packs))
    return Record(number, "test", entries, (RefMove(f"heads/{number}", None, bytes(32)),))


def begun(folder: Path) -> tuple[Journal, Cursor]:
    journal = Journal(folder)
    return journal, journal.begin(1, Snapshot((), ()), 0, NO_ID).end


def test_what_a_later_snapshot_voids_is_not_told(tmp_path: Path) -> None:
    """Record 3 failed to sync and another came in its place, after a snapshot that stands for 2."""
    journal, cursor = begun(tmp_path)
    ends = []
    for number in (1, 2, 3):
        cursor = journal.append(cursor, record(number)).end
        ends.append(cursor)
    assert [seq for seq, _ in journal.history(ends[-1])] == [3, 2, 1]
    assert [seq for seq, _ in journal.history(ends[0])] == [1]
    cursor = journal.begin(2, Snapshot((), ()), 2, ends[1].hash).end
    assert [seq for seq, _ in journal.history(cursor)] == [2, 1]
    cursor = journal.append(cursor, record(33)).end
    assert [(seq, one.time_ns) for seq, one in journal.history(cursor)] == [(3, 33), (2, 2), (1, 1)]
    with journal.path(1).open("ab") as file:
        file.write(b"\0" * 700 + os.urandom(99))
    cursor = journal.begin(3, Snapshot((), ()), 3, cursor.hash).end
    assert [seq for seq, _ in journal.history(cursor)] == [3, 2, 1]


def test_another_history_is_not_told_as_this_one(tmp_path: Path) -> None:
    journal, cursor = begun(tmp_path)
    cursor = journal.append(cursor, record(1)).end
    with pytest.raises(Integrity, match="does not hold record 1"):
        list(journal.history(cursor._replace(hash=bytes(31) + b"x")))
    later = journal.begin(2, Snapshot((), ()), 1, bytes(31) + b"x").end
    with pytest.raises(Integrity, match="does not hold record 1"):
        list(journal.history(later))
    with pytest.raises(Integrity, match="a journal record is damaged"):
        list(journal.history(later._replace(seq=2)))
    journal.path(1).unlink()
    with pytest.raises(Integrity, match="cannot read"):
        list(journal.history(later))


def test_memory_is_one_record(tmp_path: Path) -> None:
    journal, cursor = begun(tmp_path)
    for number in range(1, 61):
        cursor = journal.append(cursor, record(number, 4000)).end
    size = journal.path(1).stat().st_size
    assert size > 8 << 20
    tracemalloc.start()
    try:
        count = sum(1 for _ in journal.history(cursor))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 60
    assert peak < size / 4


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ckstore.Repo, tuple[ReflogEntry, ...]]]:
    """A repository whose journal has several segments, and what it remembers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "ROTATE_SIZE", 0)
        with ckstore.open(tmp_path_factory.mktemp("old"), threads=1) as repo:
            for number in range(12):
                repo.commit({"n": number})
                repo.tag(f"v{number}")
            assert len(segments(repo)) >= 4
            yield repo, repo.reflog().entries


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_to_an_older_segment_ends_the_list(
    old: tuple[ckstore.Repo, tuple[ReflogEntry, ...]], data: st.DataObject
) -> None:
    repo, every = old
    path = data.draw(st.sampled_from(segments(repo)[:-1]), label="segment")
    sound = path.read_bytes()
    hurt = bytearray(sound)
    kind = data.draw(st.sampled_from(["flip", "cut", "zero"]), label="kind")
    place = data.draw(st.integers(0, len(sound) - 1), label="place")
    if kind == "flip":
        hurt[place] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        del hurt[place:]
    else:
        hurt[place:] = bytes(len(hurt) - place)
    try:
        path.write_bytes(hurt)
        told = repo.reflog()
    finally:
        path.write_bytes(sound)
    assert told.entries == every[: len(told.entries)]
    assert path.stem in str(told.cut_short)
    assert len(told.entries) < len(every) or path == segments(repo)[0]  # whose first frame is a snapshot of nothing
    assert repo.reflog().entries == every


def test_a_segment_that_is_gone_ends_the_list(old: tuple[ckstore.Repo, tuple[ReflogEntry, ...]]) -> None:
    repo, every = old
    path = segments(repo)[1]
    aside = path.with_suffix(".aside")
    path.rename(aside)
    try:
        told = repo.reflog()
        oldest = told.entries[-1].seq
        with pytest.raises(Integrity, match="cannot read"):
            repo.undo(1)
        nowhere = repo.reflog("nowhere")
    finally:
        aside.rename(path)
    assert told.entries == every[: len(told.entries)]
    assert oldest > 1
    assert "cannot read" in str(told.cut_short)
    assert (nowhere.entries, nowhere.cut_short) == ((), told.cut_short)


# Undo


def test_undo_goes_back_step_by_step_and_forth_again(repo: ckstore.Repo) -> None:
    one = repo.commit({"n": 1}).id
    two = repo.commit({"n": 2}).id
    undone = repo.undo()
    assert (undone.seq, undone.reason, undone.record) == (2, "commit", 3)
    assert undone.moves == (RefChange("heads/main", two, one),)
    assert undone.time_ns == repo[two].info.time_ns
    assert repo.branches == {"main": one}
    assert repo.reflog(limit=1).entries[0].reason == "undo 2"
    first = repo.undo()
    assert first.moves == (RefChange("heads/main", one, None),)
    assert (repo.branches, repo.head, repo.log()) == ({}, "main", [])
    with pytest.raises(InvalidInput, match="nothing to undo") as caught:
        repo.undo()
    assert "reflog" in str(caught.value.hint)
    for redo in (first.record, undone.record):
        repo.undo(redo)
    assert repo.branches == {"main": two}
    assert repo[two].load() == {"n": 2}
    assert repo.undo().seq == 2
    assert repo.verify(read_data=True).ok


def test_an_empty_repository_has_nothing_to_undo(repo: ckstore.Repo) -> None:
    with pytest.raises(InvalidInput, match="nothing to undo"):
        repo.undo()


def test_undo_of_the_first_commit_and_another_one_after(repo: ckstore.Repo) -> None:
    lost = repo.commit({"n": 1}).id
    repo.undo()
    made = repo.commit({"n": 2})
    assert made.parents == ()
    assert repo.branches == {"main": made.id}
    with pytest.raises(Conflict, match="heads/main is not where record 2 left it") as caught:
        repo.undo(2)
    assert "`ckstore undo 3`" in str(caught.value.hint)
    repo.undo(3)
    repo.undo(2)
    assert repo.branches == {"main": lost}


def test_undo_takes_back_all_of_a_record(repo: ckstore.Repo) -> None:
    first = repo.commit({"n": 1}).id
    repo.commit({"n": 2}, tag="v1")
    repo.undo()
    assert (repo.branches, repo.tags) == ({"main": first}, {})
    repo.branch("side")
    repo.switch("side")
    repo.rename_branch("side", "apart")
    repo.undo()
    assert (repo.head, sorted(repo.branches)) == ("side", ["main", "side"])
    repo.undo()
    assert repo.head == "main"
    repo.undo()
    assert (repo.branches, repo.tags, repo.head) == ({"main": first}, {}, "main")


def test_undo_of_tags(repo: ckstore.Repo) -> None:
    first = repo.commit({"n": 1}, tag="v1").id
    second = repo.commit({"n": 2}).id
    repo.tag("v1", force=True)
    repo.delete_tag("v1")
    repo.undo()
    assert repo.tags == {"v1": second}
    repo.undo()
    assert repo.tags == {"v1": first}
    assert repo.branches == {"main": second}


def test_a_ref_that_moved_on(repo: ckstore.Repo) -> None:
    ids = [repo.commit({"n": number}).id for number in range(3)]
    before = repo.reflog()
    with pytest.raises(Conflict) as caught:
        repo.undo(1)
    error = caught.value
    assert error.what == "heads/main is not where record 1 left it"
    assert error.why == f"it was at {ids[0][:12]} and is at {ids[2][:12]} now, by record 3"
    assert error.hint == "take that back first: `ckstore undo 3`"
    assert error.retryable
    assert repo.reflog() == before
    for seq in (3, 2, 1):
        repo.undo(seq)
    assert repo.branches == {}


def test_where_only_one_of_two_refs_moved_on(repo: ckstore.Repo) -> None:
    repo.commit({"n": 1}, tag="v1")
    repo.delete_tag("v1")
    with pytest.raises(Conflict, match="tags/v1 is not where record 1 left it") as caught:
        repo.undo(1)
    assert "is not there now" in str(caught.value.why)
    assert sorted(repo.branches) == ["main"]


def test_an_older_record_taken_back_is_in_the_way_of_a_newer_one(repo: ckstore.Repo) -> None:
    first, second = (repo.commit({"n": number}).id for number in range(2))
    for id in (first, second, first):
        repo.tag("v", id, force=True)
    assert repo.undo(3).moves == (RefChange("tags/v", first, None),)
    with pytest.raises(Conflict, match="tags/v is not where record 5 left it") as caught:
        repo.undo()
    assert "`ckstore undo 6`" in str(caught.value.hint)
    assert repo.undo(6).record == 7
    assert [repo.undo().seq for _ in range(3)] == [5, 4, 3]


def test_head_that_moved_on(repo: ckstore.Repo) -> None:
    repo.commit({"n": 1})
    for name in ("a", "b"):
        repo.branch(name)
        repo.switch(name)
    with pytest.raises(Conflict) as caught:
        repo.undo(3)
    assert caught.value.why == "it was on heads/a and is on heads/b now, by record 5"


def test_what_cannot_be_undone(repo: ckstore.Repo) -> None:
    repo.commit({"n": 1})
    repo.commit({"n": 2})
    repo.undo(2)
    with pytest.raises(InvalidInput, match="record 2 has been undone already, by record 3") as caught:
        repo.undo(2)
    assert caught.value.hint == "`ckstore undo 3` brings it back"
    for seq in (0, -1, 4, 99):
        with pytest.raises(InvalidInput, match=f"no record {seq}"):
            repo.undo(seq)
    move_refs(repo._repository, "nothing", 0, [RefMove("tags/x", None, None)])
    with pytest.raises(InvalidInput, match="record 4 moved no branch, tag or HEAD"):
        repo.undo(4)
    assert repo.undo().seq == 1


def test_a_dry_run_only_tells(repo: ckstore.Repo) -> None:
    one = repo.commit({"n": 1}).id
    before = repo.reflog()
    told = repo.undo(dry_run=True)
    assert (told.seq, told.moves, told.record) == (1, (RefChange("heads/main", one, None),), None)
    assert repo.reflog() == before
    repo._repository.store.may_write = False
    assert repo.undo(dry_run=True) == told
    with pytest.raises(SaveFailed, match="read-only"):
        repo.undo()
    assert repo.reflog() == before


def test_no_ref_goes_back_to_what_is_not_there(repo: ckstore.Repo) -> None:
    tip = bytes.fromhex(repo.commit({"n": 1}).id)
    lost = bytes(range(32))
    put_refs(repo, 0, RefMove("tags/x", None, lost))
    put_refs(repo, 0, RefMove("tags/x", lost, tip))
    with pytest.raises(Integrity, match="is missing"):
        repo.undo()
    assert repo.tags == {"x": tip.hex()}


def test_undo_over_many_segments(repo: ckstore.Repo, rotating: None) -> None:
    ids = [repo.commit({"n": number}).id for number in range(15)]
    for number in range(15):
        assert repo.branches == {"main": ids[-1 - number]}
        assert repo.undo().seq == 15 - number
    assert repo.branches == {}
    assert len(segments(repo)) > 4
    with pytest.raises(InvalidInput, match="nothing to undo"):
        repo.undo()


def test_another_process_is_followed(repo: ckstore.Repo) -> None:
    one = repo.commit({"n": 1}).id
    run("repo.commit({'n': 2}); repo.tag('v1')", repo)
    assert said(repo.reflog().entries) == [("tag", "tags/v1"), ("commit", "heads/main"), ("commit", "heads/main")]
    repo.undo()
    run("assert repo.undo().seq == 2; assert repo.undo().seq == 1; repo.undo(6)", repo)
    assert (repo.branches, repo.tags) == ({"main": one}, {})
    with pytest.raises(InvalidInput, match="record 3 has been undone already"):
        repo.undo(3)


def test_two_processes_never_undo_the_same_twice(repo: ckstore.Repo) -> None:
    ids = [repo.commit({"n": number}).id for number in range(12)]
    code = (
        "done = []\n"
        "while len(done) < 5:\n"
        "    try:\n"
        "        done.append(repo.undo().seq)\n"
        "    except ckstore.Conflict:\n"
        "        pass\n"
        "print(done)\n"
    )
    both = [started(code, repo) for _ in range(2)]
    done = [seq for process in both for seq in finished(process)]
    assert sorted(done) == list(range(3, 13))
    assert repo.branches == {"main": ids[1]}
    assert repo.verify().ok


def started(code: str, repo: ckstore.Repo) -> subprocess.Popen[str]:
    opening = f"import ckstore\nrepo = ckstore.open({str(repo.path)!r}, threads=1)\n"
    return subprocess.Popen([sys.executable, "-c", opening + code], stdout=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str]) -> list[int]:
    out, _ = process.communicate()
    assert process.returncode == 0
    return [int(word) for word in out.strip("[]\n").split(",")]


def run(code: str, repo: ckstore.Repo) -> None:
    process = started(code, repo)
    process.communicate()
    assert process.returncode == 0


# A model of refs and records


class Written(NamedTuple):
    """A record as the model has it; `undoes` is the record that it took back."""

    seq: int
    reason: str
    moves: tuple[RefChange, ...]
    undoes: int | None = None


NAMES = st.sampled_from(["main", "side", "x/y", "new"])
TAGS = st.sampled_from(["v1", "v2"])
PICKS = st.integers(0, 11)


class Refs(RuleBasedStateMachine):
    """Two Repo objects on one folder, whose refs and reflog are those of two dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="ckstore-reflog-"))
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(storage, "ROTATE_SIZE", 0)
        self.repos = [ckstore.open(self.folder, threads=1) for _ in range(2)]
        self.refs: dict[str, str] = {HEAD: "heads/main"}
        self.records: list[Written] = []
        self.commits = 0
        self.turn = 0

    def teardown(self) -> None:
        for repo in self.repos:
            repo.close()
        self.patch.undo()
        shutil.rmtree(self.folder)

    @property
    def repo(self) -> ckstore.Repo:
        """One of them after the other."""
        self.turn += 1
        return self.repos[self.turn % 2]

    def write(self, reason: str, new: Mapping[str, str | None], undoes: int | None = None) -> None:
        """Refs go to `new`, in that order, in one record."""
        moves = tuple(RefChange(name, self.refs.get(name), target) for name, target in new.items())
        self.records.append(Written(len(self.records) + 1, reason, moves, undoes))
        self.refs |= {name: target for name, target in new.items() if target is not None}
        for name, target in new.items():
            if target is None:
                del self.refs[name]

    def is_undone(self, seq: int) -> bool:
        """Whether a record takes it back that is not itself taken back."""
        return any(one.undoes == seq and not self.is_undone(one.seq) for one in self.records)

    def ids(self) -> list[str]:
        """What refs are at, in an order that is the same in every run."""
        return [id for name, id in sorted(self.refs.items()) if name != HEAD]

    # What may happen

    @initialize()
    def begin(self) -> None:
        for branch, tag in ((None, "v1"), ("side", None), (None, None)):
            self.commit(branch, tag)

    @rule(branch=NAMES | st.none(), tag=TAGS | st.none())
    def commit(self, branch: str | None, tag: str | None) -> None:
        self.commits += 1
        name = self.refs[HEAD] if branch is None else f"heads/{branch}"
        if tag is not None and f"tags/{tag}" in self.refs:
            tag = None
        result = self.repo.commit({"n": self.commits}, branch=branch, tag=tag)
        assert result.parents == ((self.refs[name],) if name in self.refs else ())
        self.write("commit", {name: result.id} | ({} if tag is None else {f"tags/{tag}": result.id}))

    @precondition(lambda self: self.ids())
    @rule(name=NAMES, which=PICKS)
    def branch(self, name: str, which: int) -> None:
        id = self.ids()[which % len(self.ids())]
        if f"heads/{name}" in self.refs:
            with pytest.raises(InvalidInput):
                self.repo.branch(name, id)
        else:
            self.repo.branch(name, id)
            self.write("branch", {f"heads/{name}": id})

    @precondition(lambda self: self.ids())
    @rule(name=TAGS, force=st.booleans(), which=PICKS)
    def tag(self, name: str, force: bool, which: int) -> None:
        id, old = self.ids()[which % len(self.ids())], self.refs.get(f"tags/{name}")
        if old is not None and not force:
            with pytest.raises(InvalidInput):
                self.repo.tag(name, id)
        else:
            self.repo.tag(name, id, force=force)
            if id != old:
                self.write("tag", {f"tags/{name}": id})

    @rule(name=TAGS)
    def delete_tag(self, name: str) -> None:
        if f"tags/{name}" in self.refs:
            self.repo.delete_tag(name)
            self.write("delete tag", {f"tags/{name}": None})

    @rule(name=NAMES)
    def delete_branch(self, name: str) -> None:
        if f"heads/{name}" in self.refs and self.refs[HEAD] != f"heads/{name}":
            self.repo.delete_branch(name, force=True)
            self.write("delete branch", {f"heads/{name}": None})

    @rule(old=NAMES, new=NAMES)
    def rename(self, old: str, new: str) -> None:
        before, after = f"heads/{old}", f"heads/{new}"
        is_current = self.refs[HEAD] == before
        if after in self.refs or not (before in self.refs or is_current):
            with pytest.raises((InvalidInput, NoRevision)):
                self.repo.rename_branch(old, new)
        elif old != new:
            self.repo.rename_branch(old, new)
            moves: dict[str, str | None] = {after: self.refs[before], before: None} if before in self.refs else {}
            self.write("rename branch", moves | ({HEAD: after} if is_current else {}))

    @rule(name=NAMES)
    def switch(self, name: str) -> None:
        if f"heads/{name}" in self.refs:
            self.repo.switch(name)
            if self.refs[HEAD] != f"heads/{name}":
                self.write("checkout", {HEAD: f"heads/{name}"})

    @rule()
    def undo(self) -> None:
        left = [one for one in self.records if one.undoes is None and not self.is_undone(one.seq)]
        if left:
            self.take_back(left[-1], None)
        else:
            with pytest.raises(InvalidInput, match="nothing to undo"):
                self.repo.undo()

    @rule(which=PICKS)
    def undo_one(self, which: int) -> None:
        one = self.records[-1 - which % len(self.records)]
        if self.is_undone(one.seq):
            with pytest.raises(InvalidInput, match="undone already"):
                self.repo.undo(one.seq)
        else:
            self.take_back(one, one.seq)

    @rule()
    def redo(self) -> None:
        undone = [one for one in self.records if one.undoes is not None and not self.is_undone(one.seq)]
        if undone:
            self.take_back(undone[-1], undone[-1].seq)

    def take_back(self, one: Written, seq: int | None) -> None:
        elsewhere = [move.name for move in one.moves if self.refs.get(move.name) != move.new]
        if elsewhere:
            with pytest.raises(Conflict) as caught:
                self.repo.undo(seq)
            last = next(later.seq for later in reversed(self.records) if elsewhere[0] in {m.name for m in later.moves})
            assert caught.value.what == f"{elsewhere[0]} is not where record {one.seq} left it"
            assert f"`ckstore undo {last}`" in str(caught.value.hint)
            return
        dry = self.repo.undo(seq, dry_run=True)
        told = self.repo.undo(seq)
        self.write(f"undo {one.seq}", {move.name: move.old for move in one.moves}, one.seq)
        assert (told.seq, told.reason, told.moves, told.record) == (
            one.seq,
            one.reason,
            self.records[-1].moves,
            len(self.records),
        )
        assert (dry.seq, dry.moves, dry.record) == (told.seq, told.moves, None)

    @rule()
    def index_is_lost(self) -> None:
        for repo in self.repos:
            repo.close()
        shutil.rmtree(self.folder / ".ckstore/index")
        self.repos = [ckstore.open(self.folder, threads=1) for _ in range(2)]

    # What must hold

    @invariant()
    def refs_are_those_of_the_model(self) -> None:
        targets = self.repo._repository.commits().targets
        assert targets.pop(HEAD) == Symbolic(self.refs[HEAD])
        assert targets == {name: bytes.fromhex(id) for name, id in self.refs.items() if name != HEAD}

    @invariant()
    def reflog_is_that_of_the_model(self) -> None:
        told = self.repo.reflog()
        assert told.cut_short is None
        assert [(e.seq, e.reason, e.ref, e.old, e.new) for e in told.entries] == [
            (one.seq, one.reason, move.name, move.old, move.new) for one in reversed(self.records) for move in one.moves
        ]


TestRefs = Refs.TestCase
TestRefs.settings = settings(max_examples=35, stateful_step_count=25, deadline=None)
