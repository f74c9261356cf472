"""The remotes of a repository by name: what its settings say of them, and reaching them."""

from __future__ import annotations

import re
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckstore.config import Config, Scope, merge, read_layer
from ckstore.errors import InvalidInput, NotFound, RemoteFailed, nearest
from ckstore.remote.counting import Counting, Counts, Traffic
from ckstore.remote.ending import Ending
from ckstore.setting import JOBS, LIMIT_RATE, TIMEOUT
from ckstore.units import parse_size, parse_span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ckstore.remote.interface import Remote
    from ckstore.remote.retry import Retry
    from ckstore.repository import Repository

ORIGIN = "origin"
"""The remote that is meant where none is named, if there is one of that name."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}", re.ASCII)
_JOBS = 4
_TIMEOUT_S = 60.0
_LONGEST_RETRY_S = 120.0


@dataclass(frozen=True)
class RemoteInfo:
    """A remote as the settings have it. `limit_bytes_per_s` is None where nothing limits it."""

    name: str
    url: str
    jobs: int = _JOBS
    limit_bytes_per_s: int | None = None
    timeout_s: float = _TIMEOUT_S


@dataclass(frozen=True)
class Manner:
    """How one call goes about transfers; None leaves it to the settings of the remote.

    `limit_rate` is in bytes a second as people write it (`50M`), `timeout` a span (`30s`).
    """

    jobs: int | None = None
    limit_rate: str | None = None
    timeout: str | None = None


AS_SET = Manner()
"""As the settings say."""


@dataclass(frozen=True)
class Listening:
    """Who hears of retries, and who may end what goes on: `ended` is asked before each request and in each wait."""

    retried: Callable[[Retry], None] = lambda _: None
    ended: Callable[[], bool] = lambda: False


SILENTLY = Listening()


def settings_now(repository: Repository) -> Config:
    """The settings with the repository's own as its file says them now: another may have added a remote."""
    layers = [layer for layer in repository.config.layers if layer.scope is not Scope.REPOSITORY]
    own = read_layer(repository.store.layout.config, Scope.REPOSITORY)
    return merge([*layers, *([] if own is None else [own])])


def remotes_of(repository: Repository) -> tuple[RemoteInfo, ...]:
    """All remotes by name. Raises `InvalidInput` where a setting of one is wrong."""
    config = settings_now(repository)
    return tuple(_info(config, name, url) for name, url in config.remotes.items())


def remote_named(repository: Repository, name: str | None) -> RemoteInfo:
    """The remote of that name; of None `origin`, or the only one. Raises `NotFound`, `InvalidInput`."""
    config = settings_now(repository)
    known = config.remotes
    if name is None:
        if not known:
            raise NotFound("this repository has no remote", hint="`ckstore remote add origin URL`")
        name = ORIGIN if ORIGIN in known or len(known) > 1 else next(iter(known))
        if name not in known:
            raise InvalidInput("it has several remotes, and none is called origin", hint=f"name one: {_few(known)}")
    if name not in known:
        if ":" in name or "/" in name:
            hint = "give it a name first: `ckstore remote add NAME URL`"
        else:
            hint = nearest(name, list(known)) or (
                f"there is {_few(known)}" if known else f"`ckstore remote add {name} URL`"
            )
        raise NotFound(f"no remote {name!r}", hint=hint)
    return _info(config, name, known[name])


def check_remote_name(name: str) -> None:
    """Raise `InvalidInput` unless a remote may be called so."""
    if _NAME.fullmatch(name) is None:
        raise InvalidInput(f"{name!r} cannot name a remote", hint="use letters, digits, - and _")


def mannered(remote: RemoteInfo, manner: Manner) -> RemoteInfo:
    """A remote, with what a call says otherwise. Raises `InvalidInput`."""
    jobs, limit, timeout_s = remote.jobs, remote.limit_bytes_per_s, remote.timeout_s
    if manner.jobs is not None:
        jobs = manner.jobs
        if not 1 <= jobs <= 999:
            raise InvalidInput(f"{jobs} transfers at once move nothing", hint="pass 1 or more")
    if manner.limit_rate is not None:
        limit = _rate(manner.limit_rate)
    if manner.timeout is not None:
        timeout_s = _span_s(manner.timeout)
    return RemoteInfo(remote.name, remote.url, jobs, limit, timeout_s)


@contextmanager
def reaching(remote: RemoteInfo, listening: Listening = SILENTLY) -> Iterator[tuple[Remote, Callable[[], Traffic]]]:
    """The remote, open: tried again where that may help, held to its limit, and counted; and what went over the line.

    Raises as `connect` does.
    """
    from ckstore.remote.connect import Connection, connect  # boto3, where it is an S3 remote
    from ckstore.remote.retry import Retries, Retrying
    from ckstore.remote.throttle import RateLimit, Throttled

    def sleep(wait_s: float) -> None:
        until_s = time.monotonic() + wait_s
        while (left_s := until_s - time.monotonic()) > 0:
            if listening.ended():
                raise RemoteFailed(f"transfers with {remote.url} were given up")
            time.sleep(min(left_s, 0.2))

    counts = Counts()
    plain = connect(remote.url, Connection(remote.timeout_s, remote.jobs + 2))
    wrapped: Remote = Counting(plain, counts)
    if remote.limit_bytes_per_s is not None:
        wrapped = Throttled(wrapped, RateLimit(remote.limit_bytes_per_s))
    retries = Retries(deadline_s=min(max(2 * remote.timeout_s, 1.0), _LONGEST_RETRY_S))
    with Retrying(Ending(wrapped, listening.ended), retries, sleep=sleep, told=listening.retried) as opened:
        yield opened, counts.traffic


def _info(config: Config, name: str, url: str) -> RemoteInfo:
    check_remote_name(name)
    jobs, rate, timeout = (config.text(f"{table}.{name}") for table in (JOBS, LIMIT_RATE, TIMEOUT))
    return RemoteInfo(
        name,
        url,
        _JOBS if jobs is None else int(jobs),
        None if rate is None else _rate(rate),
        _TIMEOUT_S if timeout is None else _span_s(timeout),
    )


def _rate(text: str) -> int:
    rate = parse_size(text)
    if not rate:
        raise InvalidInput(f"{text!r} is no rate", hint="write 50M, or 500k: bytes a second")
    return rate


def _span_s(text: str) -> float:
    span_ns = parse_span(text)
    if not span_ns:
        raise InvalidInput(f"{text!r} is no span of time", hint="write 30s, or 2m")
    return span_ns / 1e9


def _few(known: dict[str, str]) -> str:
    return ", ".join(known)
