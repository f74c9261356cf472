from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from ckstore.errors import Auth, CkstoreError, Integrity, InvalidInput, NotFound, RemoteFailed
from ckstore.remote.interface import RootMoved, Transient, Unclear, Version
from ckstore.remote.retry import Retries, Retrying
from ckstore.remote.s3 import S3Remote
from ckstore.remote.s3_errors import typed
from ckstore.remote.s3_place import S3Place, parse_s3
from ckstore.remote.source import Buffers
from tests.servers.fixtures import use_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckstore.remote.interface import Remote
    from tests.servers.fixtures import FaultProxy, S3Server

DATA = os.urandom(400_000)

OPERATIONS: dict[str, Callable[[Remote], object]] = {
    "read": lambda remote: remote.get("packs/there"),
    "range": lambda remote: remote.get("packs/there", 100_000, 300_000),
    "put": lambda remote: remote.put("packs/new", Buffers(DATA)),
    "stat": lambda remote: remote.stat("packs/there"),
    "list": lambda remote: [stat.name for stat in remote.list("packs/th")],
    "delete": lambda remote: remote.delete(["packs/there"]),
    "read root": lambda remote: remote.read_root(),
    "clock": lambda remote: remote.clock_ns(),
}


# What people get wrong


@pytest.mark.parametrize("name", OPERATIONS)
def test_no_bucket(name: str, s3: S3Server) -> None:
    with s3.remote("no-such-bucket-1") as remote:
        if name == "clock":
            assert remote.clock_ns() > 0  # the server answers all the same
            return
        with pytest.raises(NotFound, match="no bucket at s3://no-such-bucket-1"):
            OPERATIONS[name](remote)
        with pytest.raises(NotFound, match="no bucket"):
            remote.swap_root(b"", None)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize(("key", "hint"), [("EXPIRED", "fresh"), ("STRANGER", "get-caller-identity"), ("TESTKEY", "")])
def test_refused_keys(name: str, key: str, hint: str, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = s3.bucket()
    use_key(monkeypatch, key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret := "WRONGSECRET" if not hint else "EXPIREDSECRET")
    with s3.remote(bucket) as remote:
        with pytest.raises(Auth) as raised:
            OPERATIONS[name](remote)
        with pytest.raises(Auth):
            remote.swap_root(b"", None)
    assert secret not in str(raised.value)
    assert hint in str(raised.value.hint)


def test_no_right_to_write(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = s3.bucket()
    use_key(monkeypatch, "READER")
    with s3.remote(bucket) as remote:
        assert list(remote.list("")) == []
        for call in (
            lambda: remote.put("packs/a", Buffers(DATA)),
            lambda: remote.delete(["packs/a"]),
            lambda: remote.swap_root(b"", None),
        ):
            with pytest.raises(Auth, match="s3:PutObject"):
                call()


def test_no_credentials(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with s3.remote("some-bucket") as remote, pytest.raises(Auth, match=r"AWS_ACCESS_KEY_ID|credentials"):
        remote.read_root()


def test_unknown_profile(s3: S3Server) -> None:
    with pytest.raises(InvalidInput, match="nobody"):
        S3Remote(S3Place("some-bucket", endpoint=s3.endpoint, profile="nobody"))


def test_another_region_is_found_by_boto3_or_named(s3: S3Server) -> None:
    bucket = s3.bucket()
    with S3Remote(S3Place(bucket, endpoint=s3.endpoint, region="eu-west-1")) as remote:
        assert remote.read_root() is None
        assert remote.swap_root(b"", None)
    error: Any = type("ClientError", (Exception,), {})("")
    error.response = {
        "Error": {"Code": "AuthorizationHeaderMalformed", "Region": "eu-west-3"},
        "ResponseMetadata": {"HTTPStatusCode": 400},
    }
    assert "?region=eu-west-3" in str(typed(error, "read", "s3://b").hint)


def test_a_server_without_conditions_is_said_to_be_one(s3: S3Server) -> None:
    with s3.remote(s3.bucket("no-conditions")) as remote:
        assert remote.put("packs/a", Buffers(b"x"))
        assert not remote.put("packs/a", Buffers(b"x"))
        with pytest.raises(Integrity):
            remote.put("packs/a", Buffers(b"xy"))
        with pytest.raises(RemoteFailed, match="501 NotImplemented") as raised:
            remote.swap_root(b"", None)
        assert not isinstance(raised.value, Transient)
        assert remote.read_root() is None


def test_nobody_listens(s3: S3Server) -> None:
    with s3.remote("some-bucket", port=9) as remote:
        for name, call in OPERATIONS.items():
            with pytest.raises(Transient):
                call(remote)
            assert name
        with pytest.raises(Transient) as raised:
            remote.swap_root(b"", None)
        assert not isinstance(raised.value, Unclear), "nothing was sent"


def test_a_root_that_is_too_long_is_not_read(s3: S3Server) -> None:
    with s3.remote(s3.bucket()) as remote:
        remote.swap_root(bytes((16 << 20) + 1), None)
        with pytest.raises(Integrity, match="16,777,217"):
            remote.read_root()


def test_foreign_keys_are_not_listed(s3: S3Server) -> None:
    bucket = s3.bucket()
    with s3.remote(bucket, "p") as remote:
        for key in ("p/READ ME", "p/.hidden/a", "p/root", "pq/a", "p/packs/a"):
            remote._client.put_object(Bucket=bucket, Key=key, Body=b"")
        assert [stat.name for stat in remote.list("")] == ["packs/a"]


# URLs


def test_urls_are_read_back() -> None:
    url = "s3://my-bucket/team/runs%20a?endpoint=https://minio.example:9000&region=eu-west-1&profile=me"
    place = parse_s3(url)
    expected = S3Place("my-bucket", "team/runs a", "https://minio.example:9000", "eu-west-1", "me")
    assert place == expected
    assert parse_s3(place.url) == place
    assert parse_s3("s3://b-1/") == S3Place("b-1")
    assert parse_s3("s3://b-1").url == "s3://b-1"


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3:///a",
        "s3://b",
        "s3://bucket/a/../b",
        "s3://bucket//a//b",
        "s3://bucket?endpoit=https://a",
        "s3://bucket?endpoint=a",
        "s3://bucket#a",
        "s3://bucket?region",
        "http://bucket",
    ],
)
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(InvalidInput):
        parse_s3(url)


@pytest.mark.parametrize("url", ["s3://AKIAKEY:SECRET@bucket", "s3://bucket?endpoint=https://AKIAKEY:SECRET@host"])
def test_credentials_in_urls_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        parse_s3(url)
    assert "SECRET" not in str(raised.value)
    assert "AKIAKEY" not in str(raised.value)


def test_messages_hold_no_ids_of_keys() -> None:
    error: Any = type("ClientError", (Exception,), {})("")
    error.response = {
        "Error": {"Code": "InvalidAccessKeyId", "Message": "no AKIAIOSFODNN7EXAMPLE"},
        "ResponseMetadata": {"HTTPStatusCode": 403},
    }
    said = typed(error, "read", "s3://b")
    assert isinstance(said, Auth)
    assert "AKIA" not in str(said)


# Faults on the way


RULES: dict[str, dict[str, Any]] = {
    "delay": {"action": "delay", "s": 0.05},
    "503": {"action": "status", "status": 503},
    "500": {"action": "status", "status": 500},
    "429 with Retry-After": {"action": "status", "status": 429, "retry_after": 1},
    "reset_request": {"action": "reset_request", "n": 1000},
    "stall_request": {"action": "stall_request", "n": 1000, "s": 3},
    "reset_response": {"action": "reset_response", "n": 10},
    "truncate": {"action": "truncate", "n": 10},
    "stall": {"action": "stall", "n": 10, "s": 3},
    "drop_response": {"action": "drop_response"},
    "corrupt": {"action": "corrupt", "n": 5},
    "corrupt_request": {"action": "corrupt_request", "n": 5},
    "throttle": {"action": "throttle", "n": 4_000_000},
    "twice": {"action": "twice"},
}


def check(name: str, value: object, rule: str, direct: Remote, version: Version) -> None:
    """That an operation did what it should, though something happened on the way."""
    if name in ("read", "range"):
        wanted = DATA if name == "read" else DATA[100_000:300_000]
        assert isinstance(value, bytes)
        if rule != "corrupt":  # only the ids of what is read can tell
            assert value == wanted
        assert len(value) == len(wanted)
    elif name == "put":
        assert direct.get("packs/new") == DATA
    elif name == "stat":
        assert value == direct.stat("packs/there")
    elif name == "list":
        assert value == ["packs/there"]
    elif name == "delete":
        assert direct.stat("packs/there") is None
    elif name == "read root":
        assert isinstance(value, tuple)
        assert value[1] == version
        assert len(value[0]) == 2000
    else:
        assert isinstance(value, int)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("rule", RULES)
def test_faults(name: str, rule: str, s3: S3Server, fault_proxy: FaultProxy) -> None:
    """Once: `Transient` at the most, and right when tried again."""
    bucket = s3.bucket()
    naps: list[float] = []
    with s3.remote(bucket) as direct, s3.remote(bucket, port=fault_proxy.port, timeout_s=1) as remote:
        direct.put("packs/there", Buffers(DATA))
        version = direct.swap_root(DATA[:2000], None)
        fault_proxy.rules(RULES[rule])
        value = OPERATIONS[name](Retrying(remote, Retries(deadline_s=30), sleep=naps.append))
        assert fault_proxy.hits() == [1]
        check(name, value, rule, direct, version)
        if rule.startswith("429"):
            assert naps
            assert min(naps) >= 1.0


@pytest.mark.parametrize("name", OPERATIONS)
def test_faults_that_stay(name: str, s3: S3Server, fault_proxy: FaultProxy) -> None:
    bucket = s3.bucket()
    fault_proxy.rules({"action": "status", "status": 503, "count": -1})
    with s3.remote(bucket, port=fault_proxy.port) as remote:
        with pytest.raises(Transient):
            OPERATIONS[name](remote)
        assert fault_proxy.hits() == [1], "boto3 retries nothing"
        with pytest.raises(RemoteFailed, match=r"tried [0-9]+ times"):
            OPERATIONS[name](Retrying(remote, Retries(deadline_s=60), sleep=lambda _: None))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("first", [True, False])
def test_faults_while_the_root_moves(rule: str, first: bool, s3: S3Server, fault_proxy: FaultProxy) -> None:
    """Done, not done, or `Unclear`: never the wrong one of the three."""
    bucket = s3.bucket()
    with s3.remote(bucket) as direct, s3.remote(bucket, port=fault_proxy.port, timeout_s=1) as remote:
        version = None if first else direct.swap_root(b"before", None)
        fault_proxy.rules(RULES[rule])
        data = b"after" * 1000
        try:
            moved = remote.swap_root(data, version)
        except (Unclear, RootMoved):
            assert rule not in ("delay", "429 with Retry-After")
            root = direct.read_root()
            if root is None or root.data != data:  # look, and send it again
                assert (None if root is None else root.data) == (None if first else b"before")
                fault_proxy.rules()
                remote.swap_root(data, version)
        except Transient:
            root = direct.read_root()
            assert (None if root is None else root.data) == (None if first else b"before")
            remote.swap_root(data, version)
        else:
            assert direct.read_root() == (data, moved)
        root = direct.read_root()
        assert root is not None
        assert root.data == data


def test_a_lost_reply_is_unclear(s3: S3Server, fault_proxy: FaultProxy) -> None:
    bucket = s3.bucket()
    fault_proxy.rules({"match": "PUT", "action": "drop_response"})
    with s3.remote(bucket, port=fault_proxy.port) as remote:
        with pytest.raises(Unclear):
            Retrying(remote, sleep=lambda _: None).swap_root(b"mine", None)
        assert fault_proxy.hits() == [1]
        assert fault_proxy.seen() == [1], "an unclear move is not sent again by itself"
        root = remote.read_root()
        assert root is not None
        assert root.data == b"mine"


def test_a_cut_read_goes_on_where_it_was(s3: S3Server, fault_proxy: FaultProxy) -> None:
    bucket = s3.bucket()
    data = os.urandom(5 << 20)
    with s3.remote(bucket) as direct, s3.remote(bucket, port=fault_proxy.port) as remote:
        direct.put("packs/a", Buffers(data))
        fault_proxy.rules(*({"match": "GET", "action": "reset_response", "n": 2 << 20} for _ in range(2)))
        retried: list[object] = []
        assert Retrying(remote, sleep=lambda _: None, told=retried.append).get("packs/a") == data
        assert len(retried) == 2


def test_a_stall_is_given_up(s3: S3Server, fault_proxy: FaultProxy) -> None:
    bucket = s3.bucket()
    with s3.remote(bucket) as direct, s3.remote(bucket, port=fault_proxy.port, timeout_s=0.3) as remote:
        direct.put("packs/a", Buffers(DATA))
        fault_proxy.rules({"match": "GET", "action": "stall", "n": 100_000, "s": 20})
        before = time.monotonic()
        with pytest.raises(Transient, match=r"(?i)timed? ?out"):
            remote.get("packs/a")
        assert time.monotonic() - before < 10


def test_bodies_are_checked_by_the_server(s3: S3Server, fault_proxy: FaultProxy) -> None:
    fault_proxy.rules({"match": "PUT", "action": "corrupt_request", "n": 70_000})
    with s3.remote(s3.bucket(), port=fault_proxy.port) as remote:
        with pytest.raises(Transient, match=r"BadDigest|Sha256Mismatch|SHA256Mismatch"):
            remote.put("packs/a", Buffers(DATA))
        assert remote.stat("packs/a") is None


def test_a_source_that_gives_up_says_why(s3: S3Server) -> None:
    class Stops(Buffers):
        def sent(self, count: int) -> None:
            raise CkstoreError("enough")

    with s3.remote(s3.bucket()) as remote, pytest.raises(CkstoreError, match=r"^enough$"):
        remote.put("packs/a", Stops(DATA))


def test_what_is_signed_is_not_told_as_sent(s3: S3Server) -> None:
    class Tells(Buffers):
        told = 0

        def sent(self, count: int) -> None:
            self.told += count

    with s3.remote(s3.bucket()) as remote:
        source = Tells(DATA)
        remote.put("packs/a", source)
        assert source.told == len(DATA)


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "boto3.session", None)
    with pytest.raises(InvalidInput, match=r"pip install 'ckstore\[s3\]'"):
        S3Remote(S3Place("some-bucket"))
