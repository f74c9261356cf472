"""The judge: opens a repository after a fault and says what of the durability contract does not hold.

- Acknowledged commits read back byte-identical; others on the branch are wholly there; history is linear.
- `verify`, reading all bytes, finds nothing; the index rebuilt from packs and journal is equal.
- Where gc ran, commits older than those it keeps may have lost their data, and say so; the next gc succeeds too.
- The next save succeeds and reads back, and nothing stray is left after it.
- A crash is no damage: nothing is warned of.
"""

from __future__ import annotations

import shutil
import traceback
import warnings
from typing import TYPE_CHECKING, NamedTuple

from ckstore.porcelain.init import init
from ckstore.porcelain.verify import verify
from ckstore.repository import Repository, open_repository
from ckstore.storage.view import View
from tests.crash.states import BRANCH, KEPT, Label, collect, history, label, read, save, state
from tests.indexed import indexed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

NEXT = Label("small", 1_000_003)
"""The save that the judge makes itself."""


class Verdict(NamedTuple):
    """Whether warnings are violations, and which files that no record names may be left in packs/ and journal/.

    `collected`: gc was at work, and is to run once more.
    """

    quiet: bool = True
    collected: bool = False
    leaks: frozenset[str] = frozenset()


def judge(folder: Path, acknowledged: Mapping[str, Label], verdict: Verdict | None = None) -> list[str]:
    """What is wrong with the repository in `folder`; nothing, if all is well. Adds one commit to it.

    `acknowledged` are the commits whose save had returned, by id. Where none had, there may be no repository yet.
    """
    verdict = verdict or Verdict()
    cache = folder.with_name(f"{folder.name}.judge")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            found = list(_violations(folder, cache, acknowledged, verdict))
        except Exception as error:  # whatever it is, it is a violation
            found = [f"raised {type(error).__name__}: {error}\n{traceback.format_exc()}"]
        finally:
            shutil.rmtree(cache, ignore_errors=True)
    if verdict.quiet:
        found += [f"warned: {warning.message}" for warning in said]
    return found


def _violations(folder: Path, cache: Path, acknowledged: Mapping[str, Label], verdict: Verdict) -> Iterator[str]:
    init(folder, BRANCH)
    with open_repository(folder, cache, threads=1) as repository:
        before = [id for id, _ in history(repository)]
        yield from _commits(repository, acknowledged, verdict)
        yield from (f"verify: {finding}" for finding in verify(repository, read_data=True).findings)
        id = save(repository, NEXT)
        after = history(repository)
        if [id, *before] != [one for one, _ in after]:
            yield f"the next save gave {id} upon {before}, but the branch is {[one for one, _ in after]}"
        if verdict.collected:
            yield from _collected(repository, {**acknowledged, id: NEXT}, verdict)
        yield from _strays(repository, verdict)
        with open_repository(folder, cache, threads=1, index_in_cache=True) as fresh:
            if read(fresh, after[0][1]) != state(NEXT):
                yield "the next save does not read back"
            yield from _difference(indexed(repository), indexed(fresh))


def _collected(repository: Repository, acknowledged: Mapping[str, Label], verdict: Verdict) -> Iterator[str]:
    """What another gc does: old data is gone, the rest is there, and nothing waits for anything."""
    collect(repository)
    yield from _commits(repository, acknowledged, verdict)
    yield from (f"verify after gc: {finding}" for finding in verify(repository, read_data=True).findings)
    absent = repository.absent()
    older = [id for id, _ in history(repository)[KEPT:]]
    yield from (f"gc left data of {id}" for id in older if bytes.fromhex(id) not in absent)
    waiting = repository.store.ask(View.condemned)
    if waiting:
        yield f"packs still wait to be removed: {waiting}"


def _commits(repository: Repository, acknowledged: Mapping[str, Label], verdict: Verdict) -> Iterator[str]:
    missing = dict(acknowledged)
    absent = repository.absent()
    chain = history(repository)
    for position, (id, commit) in enumerate(chain):
        follows = [chain[position + 1][0]] if position + 1 < len(chain) else []
        if [parent.hex() for parent in commit.parents] != follows:
            yield f"history is not linear at {id}"
        name = label(commit.message)
        if missing.pop(id, name) != name:
            yield f"commit {id} was acknowledged as {acknowledged[id]}, but is {name}"
        gone = absent.get(bytes.fromhex(id))
        if gone and verdict.collected and position >= KEPT and set(gone) == set(state(name)):
            continue
        if gone:
            yield f"commit {id}, number {position} from the tip, has lost {gone}"
        elif read(repository, commit) != state(name):
            yield f"commit {id} does not read back as {name}"
    yield from (f"the acknowledged commit {id} ({name}) is lost" for id, name in missing.items())


def _strays(repository: Repository, verdict: Verdict) -> Iterator[str]:
    layout = repository.store.layout
    with repository.store.index.reading() as view:
        entries = [*view.packs(), *(one.pack for one in view.condemned())]
    named = {layout.pack(entry.name).name for entry in entries}
    packs = {path.name for path in layout.packs.iterdir()}
    parts = {path.name for path in layout.journal.glob(".*")}
    yield from (f"stray in packs/: {name}" for name in packs - named - verdict.leaks)
    yield from (f"stray in journal/: {name}" for name in parts - verdict.leaks)
    yield from (f"stray in tmp/: {path.name}" for path in layout.tmp.iterdir())


def _difference(followed: Mapping[str, Sequence[object]], rebuilt: Mapping[str, Sequence[object]]) -> Iterator[str]:
    for name, rows in followed.items():
        if rows != rebuilt[name]:
            differing = [
                str(row)[:200] for row in [*rows, *rebuilt[name]] if not (row in rows and row in rebuilt[name])
            ]
            yield f"index table {name}: rebuilt differs in {differing or 'order'}"
