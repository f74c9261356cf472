"""Says what a damaged repository does: `python -m tests.crash.examiner FOLDER`, damage in, JSON out.

Each line (`flip packs/0a1b.pack 77`) is done to a copy of the repository in FOLDER. A forked child opens it, loads each
commit, reads logs, verifies, and makes the index anew: a signal ends that child alone. Right bytes or a typed error.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ckstore.errors import CkstoreError, CkstoreWarning
from ckstore.porcelain.log import LogOptions, log
from ckstore.porcelain.reflog import ReflogOptions, reflog
from ckstore.porcelain.verify import verify
from ckstore.repository import open_repository
from ckstore.storage.layout import FOLDER
from tests.crash.damage import EXTEND, files, parsed
from tests.crash.states import label, read, state
from tests.indexed import indexed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckstore.repository import Repository
    from tests.crash.damage import Damage

PATIENCE_S = 30


class Original(NamedTuple):
    """What was in the repository before: refs, log and reflog, states by commit (None: gone by gc), index, packs."""

    refs: dict[str, object]
    log: object
    reflog: object
    states: dict[bytes, dict[str, object] | None]
    tables: dict[str, list[Any]]
    newest: str

    def must_be_found(self, damage: Damage) -> bool:
        """Whether someone reads what was damaged: packs, and the journal's newest segment; zeros at its end are cut."""
        return damage.file.startswith("packs/") or (damage.file == self.newest and damage.how != EXTEND)


def original(folder: Path, cache: Path) -> Original:
    """What the undamaged repository holds."""
    with open_repository(folder, cache, threads=1) as repository:
        commits = repository.commits()
        entries = log(repository, LogOptions(0))
        absent = repository.absent()
        states = {
            id: None if id in absent else state(label(commits.read_commit(id).message))
            for id in (bytes.fromhex(entry.id) for entry in entries)
        }
        assert not verify(repository, read_data=True).findings
        newest = max(name for name in files(folder / FOLDER) if name.startswith("journal/"))
        reflogged = reflog(repository, ReflogOptions())
        return Original(dict(commits.targets), entries, reflogged, states, indexed(repository), newest)


class Examination:
    """Of one damaged repository: what is `wrong`, whether the damage was `found`, which `errors` came."""

    def __init__(self, folder: Path, damage: Damage, before: Original) -> None:
        self.wrong: list[str] = []
        self.errors: list[str] = []
        self.found = False
        self._damage = damage
        self._before = before
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                with open_repository(folder, folder / "cache", threads=1) as repository:
                    self._examine(repository)
            except CkstoreError as error:
                self._typed("open", error)
            except Exception:  # whatever it is, it is no typed error
                self.wrong.append(traceback.format_exc())
        self.found |= any(issubclass(one.category, CkstoreWarning) for one in said)

    def _typed(self, what: str, error: CkstoreError) -> None:
        self.errors.append(f"{what}: {type(error).__name__}")
        self.found = True
        if not self._damage.is_of_data and self._damage.file != "format":
            self.wrong.append(f"{what} fails though packs and journal are sound: {error}")

    def _examine(self, repository: Repository) -> None:
        before = self._before
        if dict(repository.commits().targets) != before.refs:
            self.wrong.append(f"refs have changed: {repository.commits().targets}")
        for id, wanted in before.states.items():
            try:
                if wanted is not None and read(repository, repository.commits().read_commit(id)) != wanted:
                    self.wrong.append(f"commit {id.hex()} has wrong bytes")
            except CkstoreError as error:
                self._typed("load", error)
        try:
            if log(repository, LogOptions(0)) != before.log:
                self.wrong.append("the log has changed")
        except CkstoreError as error:
            self._typed("log", error)
        self._reflog(repository)
        findings = verify(repository, read_data=True, now_ns=2).findings
        self.found |= bool(findings)
        if self._damage.is_of_index:
            self.wrong += [f"verify: {finding}" for finding in findings]
        if not self._damage.is_of_data:
            repository.store.rebuild_index()
            after = indexed(repository)
            self.wrong += [
                f"the index made anew differs in {name}" for name in after if after[name] != before.tables[name]
            ]

    def _reflog(self, repository: Repository) -> None:
        """What is left of it is right."""
        after, before = reflog(repository, ReflogOptions()), self._before.reflog
        if after != before and not (after.cut_short and before.entries[: len(after.entries)] == after.entries):  # type: ignore[attr-defined]
            self.wrong.append(f"the reflog has changed: {after}")

    def said(self) -> dict[str, object]:
        if not self.found and self._before.must_be_found(self._damage):
            self.wrong.append("nobody noticed")
        return {"wrong": self.wrong, "found": self.found, "errors": self.errors}


def examine(template: Path, scratch: Path, damage: Damage, before: Original) -> dict[str, object]:
    """Damage a copy in `scratch` and examine it in a child; what it said, or the signal that ended it."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    shutil.copytree(template / FOLDER, folder / FOLDER)
    try:
        if not damage.do(folder / FOLDER):
            return {"wrong": [], "found": False, "errors": [], "same": True}
        ours, theirs = os.pipe()
        pid = os.fork()
        if not pid:
            _be_the_child(folder, damage, before, theirs)
        os.close(theirs)
        with os.fdopen(ours, "rb") as pipe:
            said = pipe.read()
        _, status = os.waitpid(pid, 0)
    finally:
        shutil.rmtree(folder)
    code = os.waitstatus_to_exitcode(status)
    if code:
        name = signal.Signals(-code).name if code < 0 else str(code)
        return {"wrong": [f"ended by {name}"], "found": False, "errors": []}
    found: dict[str, object] = json.loads(said)
    return found


def _be_the_child(folder: Path, damage: Damage, before: Original, pipe: int) -> None:
    """Never returns."""
    signal.alarm(PATIENCE_S)  # who hangs is ended, and that is a failure
    try:
        said = Examination(folder, damage, before).said()
        os.write(pipe, json.dumps(said).encode()[:60_000])
    except BaseException:  # nothing of the parent's may run in the child
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def examined(template: Path, damages: Iterable[Damage]) -> list[dict[str, Any]]:
    """What an examiner of its own says of each: `damage`, `wrong`, `found`, `errors`."""
    command = [sys.executable, "-B", "-m", "tests.crash.examiner", str(template)]
    lines = "".join(f"{damage}\n" for damage in damages)
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], input=lines, stdout=subprocess.PIPE, text=True, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def main() -> None:
    template = Path(sys.argv[1]).absolute()
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as scratch:
        copy = Path(scratch) / "original"
        shutil.copytree(template, copy)
        before = original(copy, Path(scratch) / "cache")
        gc.freeze()  # else each child's collector copies the pages of all that was imported
        for line in sys.stdin:
            said = examine(template, Path(scratch), parsed(line), before)
            print(json.dumps({"damage": line.strip(), **said}), flush=True)


if __name__ == "__main__":
    main()
