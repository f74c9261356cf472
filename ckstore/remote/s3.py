"""A remote in an S3 bucket, of AWS or of any server that speaks its language, through boto3.

Objects are made by one PUT with `If-None-Match: *`, the root moves by PUT with `If-Match`. boto3 retries nothing here:
what a lost answer means depends on what was asked, and only we know.
"""

from __future__ import annotations

from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from ckstore.errors import CkstoreError, Integrity, NotFound, RemoteFailed
from ckstore.remote.interface import (
    BLOCK_BYTES,
    MAX_ROOT_BYTES,
    ROOT,
    Remote,
    Root,
    RootMoved,
    Stat,
    Transient,
    Unclear,
    Version,
    check_name,
    check_range,
    check_size,
    is_name,
    other_length,
    too_short,
)
from ckstore.remote.s3_client import Body, crc32, new_client
from ckstore.remote.s3_errors import code_of, headers_of, not_deleted, status_of, typed
from ckstore.remote.s3_place import S3Place
from ckstore.remote.source import Buffers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from ckstore.remote.source import Source

_BATCH = 1000
_CANNOT = frozenset({"NotImplemented", "MethodNotAllowed"})


class S3Remote(Remote):
    """The objects below `place.prefix` in `place.bucket`, which must be there.

    `timeout_s` is how long a connection may take and how long a transfer may stand still before it is given up;
    `connections` is how many requests may be under way at once. Raises `Auth` and `InvalidInput` where the standard
    chain has no credentials or names no region, at the first request at the latest.
    """

    def __init__(self, place: S3Place, timeout_s: float = 60.0, connections: int = 10, client: Any = None) -> None:
        self.place = place
        self._timeout_s = timeout_s
        self._connections = connections
        self._owns = client is None
        self._client = client if client is not None else new_client(place, timeout_s, connections)
        self._creates = True
        """Whether the server is known to take conditions on PUT: one that does not is told at the first object."""
        self._bare = False
        """Whether it wants an ETag without its quotes."""
        self._seen = False
        """Whether the bucket has been seen."""

    @property
    def url(self) -> str:
        return self.place.url

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        check_name(name)
        check_range(start, stop)
        if start == stop or (start and stop is None):
            end = self._end(name, start)
            if start in (stop, end):
                return
            stop = end
        ask = {} if stop is None else {"Range": f"bytes={start}-{stop - 1}"}
        try:
            answer = self._client.get_object(**self._at(name), **ask)
        except Exception as error:
            if status_of(error) == 416:
                raise too_short(self.url, name, stop or start) from error
            if code_of(error) == "NoSuchKey":
                raise NotFound(f"{self.url} has no {name}") from error
            raise typed(error, f"read {name} from", self.url) from error
        body = answer["Body"]
        try:
            left = self._expected(name, answer, start, stop)
            while left:
                with self._typed(f"read {name} from"):
                    block = body.read(min(BLOCK_BYTES, left))
                if not block:
                    raise Transient(f"{self.url} ended {name} {left:,} bytes early", hint="try again")
                left -= len(block)
                yield block
        finally:
            body.close()

    def put(self, name: str, source: Source) -> bool:
        check_name(name)
        check_size(name, source.size_bytes)
        if self._creates:
            try:
                self._send(name, source, {"IfNoneMatch": "*"})
                return True
            except Exception as error:
                if status_of(error) == 412:
                    return self._was_there(name, source.size_bytes)
                if status_of(error) != 501 and code_of(error) not in _CANNOT:
                    raise typed(error, f"write {name} to", self.url) from error
                self._creates = False
        there = self.stat(name)
        if there is not None and there.size_bytes == source.size_bytes:
            return False
        if there is not None:
            raise other_length(self.url, name, there.size_bytes, source.size_bytes)
        with self._typed(f"write {name} to"):
            self._send(name, source, {})
        return True

    def stat(self, name: str) -> Stat | None:
        check_name(name)
        return self._head(name)

    def list(self, prefix: str) -> Iterator[Stat]:
        ask: dict[str, Any] = {"Bucket": self.place.bucket, "Prefix": self.place.key(prefix)}
        cut = len(self.place.key(""))
        while True:
            with self._typed("list"):
                page = self._client.list_objects_v2(**ask)
            for found in page.get("Contents", ()):
                name = found["Key"][cut:]
                if is_name(name):
                    yield Stat(name, found["Size"], Version(found.get("ETag", "")), _ns(found["LastModified"]))
            if not page.get("IsTruncated"):
                return
            ask["ContinuationToken"] = page["NextContinuationToken"]

    def delete(self, names: Sequence[str]) -> None:
        for name in names:
            check_name(name)
        for first in range(0, len(names), _BATCH):
            self._delete(names[first : first + _BATCH])

    def read_root(self) -> Root | None:
        try:
            answer = self._client.get_object(**self._at(ROOT))
        except Exception as error:
            if code_of(error) in ("NoSuchKey", "404"):
                return None
            raise typed(error, "read the root of", self.url) from error
        body, size = answer["Body"], answer["ContentLength"]
        try:
            if size > MAX_ROOT_BYTES:
                raise Integrity(f"the root of {self.url} has {size:,} bytes")
            with self._typed("read the root of"):
                data = body.read()
        finally:
            body.close()
        if len(data) != size or "ETag" not in answer:
            raise Transient(f"{self.url} sent a part of its root", hint="try again")
        return Root(data, Version(answer["ETag"]))

    def swap_root(self, data: bytes, expected: Version | None) -> Version:
        condition = {"IfNoneMatch": "*"} if expected is None else {"IfMatch": self._etag(expected)}
        try:
            answer = self._send(ROOT, Buffers(data), condition)
        except Exception as error:
            if expected is not None and status_of(error) == 412 and not self._bare and self._is_at(expected):
                # What it refuses is not the version but how it is written.
                self._bare = True
                try:
                    return self.swap_root(data, expected)
                except RootMoved:
                    self._bare = False
                    raise
            gone = expected is not None and code_of(error) in ("NoSuchKey", "404")
            if status_of(error) in (409, 412) or gone:
                raise RootMoved(f"the root of {self.url} is not at {expected} any more") from error
            raise typed(error, "move the root of", self.url, moves_root=True) from error
        if "ETag" not in answer:
            raise Unclear(f"{self.url} did not say which version its root has now")
        return Version(answer["ETag"])

    def clock_ns(self) -> int:
        try:
            headers = self._client.head_object(**self._at(ROOT))["ResponseMetadata"]["HTTPHeaders"]
        except Exception as error:
            if status_of(error) != 404:
                raise self._headed(error, "read the clock of") from error
            headers = headers_of(error)
        try:
            return _ns(parsedate_to_datetime(headers["date"]))
        except (KeyError, ValueError, TypeError) as error:
            raise RemoteFailed(f"{self.url} does not say what time it is", why="its answer has no Date") from error

    def remove_root(self) -> None:
        with self._typed("delete the root of"):
            self._client.delete_object(**self._at(ROOT))

    def inside(self, name: str) -> S3Remote:
        check_name(name)
        place = S3Place(
            self.place.bucket, self.place.key(f".{name}"), self.place.endpoint, self.place.region, self.place.profile
        )
        return S3Remote(place, self._timeout_s, self._connections, self._client)

    def close(self) -> None:
        if self._owns:
            self._client.close()

    def _at(self, name: str) -> dict[str, str]:
        return {"Bucket": self.place.bucket, "Key": self.place.key(name)}

    def _end(self, name: str, start: int) -> int:
        """Where an object ends; `start` itself where that is not beyond."""
        there = self.stat(name)
        if there is None:
            raise NotFound(f"{self.url} has no {name}")
        if start > there.size_bytes:
            raise too_short(self.url, name, start, there.size_bytes)
        return there.size_bytes

    def _expected(self, name: str, answer: dict[str, Any], start: int, stop: int | None) -> int:
        """How many bytes the body must have. Raises where the server says that it sends others."""
        length: int = answer["ContentLength"]
        if stop is None:
            return length
        sent = answer.get("ContentRange")
        if sent is None:
            raise RemoteFailed(f"{self.url} does not send parts of objects", hint="use a server that knows Range")
        if not sent.startswith(f"bytes {start}-"):
            raise Transient(f"{self.url} sent other bytes of {name} than were asked for", why=sent)
        if length != stop - start:
            raise too_short(self.url, name, stop, start + length)
        return length

    def _head(self, name: str) -> Stat | None:
        try:
            head = self._client.head_object(**self._at(name))
        except Exception as error:
            if status_of(error) == 404:
                self._check_bucket()
                return None
            raise self._headed(error, f"look at {name} in") from error
        self._seen = True
        return Stat(name, head["ContentLength"], Version(head.get("ETag", "")), _ns(head["LastModified"]))

    def _check_bucket(self) -> None:
        """Raise `NotFound` if there is no bucket: the answer to a HEAD does not tell that from a missing object."""
        if self._seen:
            return
        try:
            self._client.head_bucket(Bucket=self.place.bucket)
        except Exception as error:
            if status_of(error) == 404:
                raise NotFound(f"there is no bucket at {self.url}", hint="make it first, or mend the URL") from error
            if status_of(error) != 403:  # who may not look at the bucket may still read from it
                raise typed(error, "find the bucket of", self.url) from error
        self._seen = True

    def _headed(self, error: Exception, action: str) -> CkstoreError:
        """The error for an answer to a HEAD. It has no body, so that a list is asked for where more must be known."""
        if status_of(error) in (400, 403):
            try:
                self._client.list_objects_v2(Bucket=self.place.bucket, Prefix=self.place.key(""), MaxKeys=1)
            except Exception as told:
                return typed(told, action, self.url)
        return typed(error, action, self.url)

    def _was_there(self, name: str, size_bytes: int) -> bool:
        """False, for an object that was there before. Raises `Integrity` if it is another one."""
        there = self.stat(name)
        if there is None:
            raise Transient(f"{self.url} has a {name} and has none", hint="try again")
        if there.size_bytes != size_bytes:
            raise other_length(self.url, name, there.size_bytes, size_bytes)
        return False

    def _etag(self, version: Version) -> str:
        return version.strip('"') if self._bare else version

    def _is_at(self, version: Version) -> bool:
        try:
            there = self._head(ROOT)
        except CkstoreError as error:
            raise Unclear(f"the root of {self.url} may have moved", why=error.what) from error
        return there is not None and there.version == version

    def _send(self, name: str, source: Source, condition: dict[str, str]) -> dict[str, Any]:
        """One PUT. Raises what boto3 does, and what `source` does."""
        body = Body(source, source.open())
        try:
            answer: dict[str, Any] = self._client.put_object(
                **self._at(name),
                **condition,
                Body=body,
                ContentLength=source.size_bytes,
                ContentType="application/octet-stream",
                ChecksumCRC32=crc32(source),
            )
        except Exception as error:
            if body.failure is not None:
                raise body.failure from error
            raise
        finally:
            body.close()
        return answer

    def _delete(self, names: Sequence[str]) -> None:
        keys = [{"Key": self.place.key(name)} for name in names]
        if not keys:
            return
        try:
            answer = self._client.delete_objects(Bucket=self.place.bucket, Delete={"Objects": keys, "Quiet": True})
        except Exception as error:
            if status_of(error) != 501 and code_of(error) not in _CANNOT:
                raise typed(error, "delete from", self.url) from error
            for key in keys:  # a server without batches
                with self._typed("delete from"):
                    self._client.delete_object(Bucket=self.place.bucket, **key)
            return
        failed = [each for each in answer.get("Errors", ()) if each.get("Code") != "NoSuchKey"]
        if failed:
            raise not_deleted(failed, self.url)

    @contextmanager
    def _typed(self, action: str) -> Iterator[None]:
        try:
            yield
        except CkstoreError:
            raise
        except Exception as error:
            raise typed(error, action, self.url) from error


def _ns(moment: datetime) -> int:
    return int(moment.timestamp()) * 10**9 + moment.microsecond * 1000
