"""Fixtures: an S3 server of this session, and the fault proxy before it. Servers start when a test asks for one."""

from __future__ import annotations

import json
import os
import uuid
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

import botocore.session
import pytest
from botocore.loaders import create_loader

from ckstore.remote.s3 import S3Remote
from ckstore.remote.s3_place import S3Place
from tests.servers.running import running
from tests.servers.strict_s3 import KEY, REGION, SECRET, SECRETS

if TYPE_CHECKING:
    from collections.abc import Iterator


class S3Server:
    """A server that runs, and buckets on it."""

    def __init__(self, port: int) -> None:
        self.port = port

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def url(self, bucket: str, prefix: str = "", port: int | None = None) -> str:
        """The URL of a remote there, as a person writes it."""
        path = f"/{prefix}" if prefix else ""
        return f"s3://{bucket}{path}?endpoint=http://127.0.0.1:{port or self.port}&region={REGION}"

    def bucket(self, prefix: str = "bucket") -> str:
        """A new bucket; `prefix` says how odd it is."""
        name = f"{prefix}-{uuid.uuid4().hex[:12]}"
        with S3Remote(S3Place(name, endpoint=self.endpoint, region=REGION)) as remote:
            remote._client.create_bucket(Bucket=name)
        return name

    def remote(self, bucket: str, prefix: str = "", port: int | None = None, timeout_s: float = 20.0) -> S3Remote:
        """A client of the server, or of the proxy on `port` before it."""
        return S3Remote(S3Place(bucket, prefix, f"http://127.0.0.1:{port or self.port}", REGION), timeout_s)


class FaultProxy:
    """A fault proxy that runs."""

    def __init__(self, port: int) -> None:
        self.port = port

    def rules(self, *rules: dict[str, Any]) -> None:
        """Apply these from now on, in place of those before."""
        self._ask(json.dumps(rules).encode())

    def hits(self) -> list[int]:
        """How often each rule was applied."""
        return [rule.get("hits", 0) for rule in self._ask(None)]

    def seen(self) -> list[int]:
        """How many requests each rule saw."""
        return [rule.get("seen", 0) for rule in self._ask(None)]

    def _ask(self, data: bytes | None) -> list[dict[str, Any]]:
        with urlopen(Request(f"http://127.0.0.1:{self.port}/__faults__", data), timeout=20) as answer:
            said: list[dict[str, Any]] = json.loads(answer.read())
            return said


_CHAIN = {
    "AWS_ACCESS_KEY_ID": KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_DEFAULT_REGION": REGION,
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


@pytest.fixture(scope="session")
def _s3_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Clients are made for each test: the files that they come out of are read once."""
    log = tmp_path_factory.mktemp("s3") / "log"
    with running("tests.servers.strict_s3", "0", log=log) as port, pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.session, "create_loader", cache(create_loader))
        yield port


@pytest.fixture(scope="session")
def _proxy_process(_s3_process: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    log = tmp_path_factory.mktemp("proxy") / "log"
    with running("tests.servers.fault_proxy", "0", str(_s3_process), log=log) as port:
        yield port


@pytest.fixture
def s3(_s3_process: int, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The S3 server of this session, with its credentials in the environment and no others."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in _CHAIN.items():
        monkeypatch.setenv(name, value)
    return S3Server(_s3_process)


@pytest.fixture
def fault_proxy(s3: S3Server, _proxy_process: int) -> Iterator[FaultProxy]:
    """The proxy before the S3 server; without rules in the beginning."""
    proxy = FaultProxy(_proxy_process)
    proxy.rules()
    yield proxy
    proxy.rules()


def use_key(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """Sign with another key."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRETS.get(key, "no secret"))
