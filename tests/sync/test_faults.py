"""What networks and servers do to push, pull and clone: a right result or a typed error, and the next try completes.

Each rule of the fault proxy hits one request of each kind, and some hit all of a kind. Pushes are killed too.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import ckstore
from ckstore.errors import CkstoreError
from ckstore.remote.retry import Retries, Retrying
from ckstore.storage.record import RefMove
from ckstore.sync.push import PushRequest, push
from tests.committed import put_refs
from tests.remote.test_s3 import RULES
from tests.sync.places import counting, fetch_all, heads, local, objects_of, opened, push_all, state, twin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ckstore.remote.interface import Remote
    from tests.servers.fixtures import FaultProxy, S3Server

ROOT = Path(ckstore.__file__).parent.parent
KILLS = 8


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ckstore.Repo]:
    with opened(tmp_path_factory.mktemp("faults") / "mine") as repo:
        for step in range(3):
            repo.commit(state(step, size=20_000), step=step)
        yield repo


@pytest.fixture(scope="module")
def bucket() -> list[str]:
    return []


class Place:
    """A place of its own on the server, reached directly and through the proxy."""

    def __init__(self, s3: S3Server, proxy: FaultProxy, bucket: list[str]) -> None:
        if not bucket:
            bucket.append(s3.bucket())
        prefix = uuid.uuid4().hex
        self.direct: Remote = Retrying(s3.remote(bucket[0], prefix))
        self.through: Remote = Retrying(
            s3.remote(bucket[0], prefix, port=proxy.port, timeout_s=0.5), Retries(deadline_s=3), sleep=lambda _: None
        )

    def close(self) -> None:
        self.direct.close()
        self.through.close()


@pytest.fixture
def place(s3: S3Server, fault_proxy: FaultProxy, bucket: list[str]) -> Iterator[Place]:
    place = Place(s3, fault_proxy, bucket)
    yield place
    place.close()


def attempt(work: Callable[[], object], proxy: FaultProxy) -> CkstoreError | None:
    """The typed error, if one is raised. Some rule must have been applied."""
    found = None
    try:
        work()
    except CkstoreError as error:
        found = error
    assert proxy.hits()[0] > 0
    proxy.rules()
    return found


def pushed(mine: ckstore.Repo, place: Place, folder: Path, rules: list[dict[str, Any]], proxy: FaultProxy) -> None:
    """A push of everything, then what is there, read past the proxy."""
    proxy.rules(*rules)
    error = attempt(lambda: push_all(mine, place.through), proxy)
    if error is not None:
        push_all(mine, place.through)
    assert push_all(mine, place.through).moves == ()
    with twin(folder / "check", mine) as other:
        fetch_all(other, place.direct)
        assert objects_of(other) == objects_of(mine)


def pulled(mine: ckstore.Repo, place: Place, folder: Path, rules: list[dict[str, Any]], proxy: FaultProxy) -> None:
    """A fetch into a repository with the first commits, and the branch moved forward."""
    tip, older = bytes.fromhex(mine["HEAD"].id), bytes.fromhex(mine["HEAD~1"].id)
    push(place.direct, local(mine), PushRequest({"heads/main": older}, head="main", jobs=1))
    with twin(folder / "other", mine) as other:
        fetch_all(other, place.direct, only=["model"])
        put_refs(other, 1, RefMove("heads/main", None, older))
        push_all(mine, place.direct)
        received(other, place, rules, proxy, {"heads/main": older})
        assert other._repository.commits().refs["remotes/origin/main"] == tip
        put_refs(other, 2, RefMove("heads/main", older, tip))
        assert other["HEAD"].load()["optimizer"]["step"] == 2
        assert other.verify(read_data=True).ok


def cloned(mine: ckstore.Repo, place: Place, folder: Path, rules: list[dict[str, Any]], proxy: FaultProxy) -> None:
    """A fetch of everything into an empty repository."""
    push_all(mine, place.direct)
    with twin(folder / "other", mine) as other:
        received(other, place, rules, proxy, {})
        assert objects_of(other) == objects_of(mine)
        assert other.verify(read_data=True).ok


def received(
    repo: ckstore.Repo,
    place: Place,
    rules: list[dict[str, Any]],
    proxy: FaultProxy,
    before: dict[str, bytes | None],
) -> None:
    """A fetch with faults: whole, or an error with no ref moved; the next one brings the rest."""
    refs = dict(repo._repository.commits().refs)
    proxy.rules(*rules)
    error = attempt(lambda: fetch_all(repo, place.through), proxy)
    if error is not None:
        assert repo._repository.commits().refs == refs
        fetch_all(repo, place.through)
    assert heads(repo) == before
    assert fetch_all(repo, place.through).moves == ()


VERBS = {"push": pushed, "pull": pulled, "clone": cloned}
REQUESTS = {
    "push": ["GET .*/root", "PUT .*/packs/", "PUT .*/index/", "PUT .*/root"],
    "pull": ["GET .*/root", "GET .*/index/", "GET .*/packs/"],
    "clone": ["GET .*/root", "GET .*/index/", "GET .*/packs/"],
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("verb", "match"), [(verb, match) for verb in VERBS for match in REQUESTS[verb]])
def test_faults(
    verb: str, match: str, rule: str, tmp_path: Path, mine: ckstore.Repo, place: Place, fault_proxy: FaultProxy
) -> None:
    """One request is hit."""
    VERBS[verb](mine, place, tmp_path, [{**RULES[rule], "match": match}], fault_proxy)


@pytest.mark.parametrize("match", ["PUT .*/packs/", "PUT .*/root", "GET .*/root", "GET .*/packs/"])
@pytest.mark.parametrize("rule", ["503", "reset_request", "reset_response", "drop_response", "corrupt", "twice"])
def test_faults_that_stay(
    rule: str, match: str, tmp_path: Path, mine: ckstore.Repo, place: Place, fault_proxy: FaultProxy
) -> None:
    """All requests of a kind are hit until the next try."""
    rules = [{**RULES[rule], "match": match, "count": -1}]
    (pushed if match.startswith("PUT") else cloned)(mine, place, tmp_path, rules, fault_proxy)


PUSHER = """
import os, sys
from pathlib import Path
from ckstore.remote.connect import connect
from ckstore.remote.source import Watched
from ckstore.remote.throttle import RateLimit, Throttled
from ckstore.remote.wrapper import Wrapper
from ckstore.repository import open_repository
from ckstore.sync import packing
from ckstore.sync.push import PushRequest, push
from ckstore.sync.repository_local import RepositoryLocal

packing.PACK_BYTES = 256 << 10
folder, cache, url, log = sys.argv[1:]
told = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

class Told(Wrapper):
    def put(self, name, source):
        return self.inner.put(name, Watched(source, lambda count: os.write(told, bytes(count // 1024))))

with open_repository(Path(folder), Path(cache)) as repository:
    tip = repository.commits().branches["main"]
    remote = Told(Throttled(connect(url), RateLimit(40_000_000)))
    push(remote, RepositoryLocal(repository), PushRequest({"heads/main": tip}, head="main", jobs=2))
"""


def test_a_push_that_is_killed_goes_on_where_it_was(
    tmp_path: Path, s3: S3Server, request: pytest.FixtureRequest
) -> None:
    """At random instants, counted in bytes that were sent; `--crash-scale` kills more often."""
    kills = KILLS * min(int(request.config.getoption("--crash-scale")), 4)
    bucket = s3.bucket()
    url = s3.url(bucket)
    log = tmp_path / "sent"
    draw = random.Random()
    with opened(tmp_path / "mine") as repo:
        for step in range(kills // 4):
            repo.commit(state(step, size=4_000_000, seed=step), step=step)
        total = push_all(repo, counting("elsewhere")).sent_bytes
    words = [sys.executable, "-c", PUSHER, str(tmp_path / "mine"), str(tmp_path / "mine-cache"), url, str(log)]
    for instant in sorted([*(draw.random() for _ in range(kills - 1)), 1.0]):
        process = subprocess.Popen(words, cwd=ROOT)
        while process.poll() is None and _sent(log) < instant * total:
            time.sleep(0.005)
        process.kill()
        assert process.wait(30) == -9 or instant == 1.0, "it ended before it was killed"
    subprocess.run(words, cwd=ROOT, check=True)
    assert _sent(log) <= 1.3 * total
    with opened(tmp_path / "mine") as repo, s3.remote(bucket) as remote, twin(tmp_path / "other", repo) as other:
        fetch_all(other, remote)
        assert objects_of(other) == objects_of(repo)


def _sent(log: Path) -> int:
    return log.stat().st_size * 1024 if log.exists() else 0
