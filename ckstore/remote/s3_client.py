"""The boto3 client of an S3 remote, and what it reads objects from. boto3 is loaded here, and only when needed."""

from __future__ import annotations

import base64
import io
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO

from ckstore.errors import InvalidInput
from ckstore.remote.interface import BLOCK_BYTES
from ckstore.remote.s3_errors import typed

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckstore.remote.s3_place import S3Place
    from ckstore.remote.source import Source


class Body(io.RawIOBase):
    """What boto3 reads a source from, through `reader`, which it closes; what is read to sign it counts as unsent."""

    def __init__(self, source: Source, reader: BinaryIO) -> None:
        self._source = source
        self._reader = reader
        self._sending = False
        self.failure: Exception | None = None

    def __len__(self) -> int:
        return self._source.size_bytes

    def signal_transferring(self) -> None:
        self._sending = True

    def signal_not_transferring(self) -> None:
        self._sending = False

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._reader.seek(offset, whence)

    def tell(self) -> int:
        return self._reader.tell()

    def read(self, size: int | None = -1) -> bytes:
        try:
            data = self._reader.read(-1 if size is None else size)
            if self._sending and data:
                self._source.sent(len(data))
        except Exception as error:
            self.failure = error  # boto3 takes it for an error of the network
            raise
        return data

    def close(self) -> None:
        self._reader.close()
        super().close()


def crc32(source: Source) -> str:
    """The checksum that the server compares with what reaches it."""
    value = 0
    with source.open() as reader:
        while block := reader.read(BLOCK_BYTES):
            value = zlib.crc32(block, value)
    return base64.b64encode(value.to_bytes(4, "big")).decode()


def new_client(place: S3Place, timeout_s: float, connections: int) -> Any:
    """A client that tries everything once. Raises `InvalidInput` and `Auth`, as `S3Remote` does."""
    try:
        from boto3.session import Session
        from botocore.config import Config
    except ImportError as error:
        raise InvalidInput(
            f"{place.url} needs boto3, which is not installed", hint="pip install 'ckstore[s3]'"
        ) from error
    config = Config(
        connect_timeout=timeout_s,
        read_timeout=timeout_s,
        retries={"total_max_attempts": 1, "mode": "standard"},
        max_pool_connections=connections,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path" if place.endpoint else "auto"},
    )
    try:
        session = Session(profile_name=place.profile, region_name=place.region)
        client = session.client("s3", endpoint_url=place.endpoint, config=config)
    except Exception as error:
        raise typed(error, "reach", place.url) from error
    # Reading to sign comes between these two. Named as generally as signing is: those for one operation come before.
    events = client.meta.events
    events.register_first("request-created.s3", _signal("signal_not_transferring"))
    events.register_last("request-created.s3", _signal("signal_transferring"))
    return client


def _signal(name: str) -> Callable[..., None]:
    def tell(request: Any, **_: object) -> None:
        with suppress(AttributeError):
            getattr(request.body, name)()

    return tell
