"""An S3 server: moto, with what it lacks, and with buckets that are as odd as servers in the field.

Every request must be signed for the region by a key that is known, every checksum must be right, and requests
are met one after another, so that conditions hold. `READER` may read only; the session of `EXPIRED` is over.

A bucket whose name begins so, behaves so:

    no-conditions    answers 501 to conditions on PUT
    unquoted         takes an ETag without quotes only
    deaf             ignores conditions
    careless         looks first and writes later: several writers win
    no-batch         answers 501 to the deletion of many at once
    no-range         sends whole objects always
    short            sends a byte less of a range than was asked for
"""

from __future__ import annotations

import io
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from tests.servers.signatures import key_of, refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Start = Callable[..., Any]

KEY, SECRET, REGION = "TESTKEY", "TESTSECRET", "us-east-1"
SECRETS = {KEY: SECRET, "READER": "READERSECRET", "EXPIRED": "EXPIREDSECRET"}
_STATUS = {
    "AuthorizationHeaderMalformed": "400 Bad Request",
    "BadDigest": "400 Bad Request",
    "ExpiredToken": "400 Bad Request",
    "IncompleteBody": "400 Bad Request",
    "NotImplemented": "501 Not Implemented",
    "PreconditionFailed": "412 Precondition Failed",
    "XAmzContentSHA256Mismatch": "400 Bad Request",
}
_CONDITIONS = ("HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH")


class StrictS3:
    """The WSGI application."""

    def __init__(self) -> None:
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length)
        if len(body) != length:
            return _error(start, "IncompleteBody")
        code = refused(environ, body, SECRETS, REGION) or self._forbidden(environ)
        if code:
            return _error(start, code)
        environ["wsgi.input"] = io.BytesIO(body)
        bucket = environ["PATH_INFO"].split("/")[1]
        return self._answer(environ, start, bucket)

    def _forbidden(self, environ: dict[str, Any]) -> str | None:
        key = key_of(environ)
        if key == "EXPIRED":
            return "ExpiredToken"
        return "AccessDenied" if key == "READER" and environ["REQUEST_METHOD"] not in ("GET", "HEAD") else None

    def _answer(self, environ: dict[str, Any], start: Start, bucket: str) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        conditions = [name for name in _CONDITIONS if name in environ] if method == "PUT" else []
        if bucket.startswith("no-conditions") and conditions:
            return _error(start, "NotImplemented")
        if bucket.startswith("no-batch") and method == "POST":
            return _error(start, "NotImplemented")
        if bucket.startswith("unquoted") and "HTTP_IF_MATCH" in conditions:
            if '"' in environ["HTTP_IF_MATCH"]:
                return _error(start, "PreconditionFailed")
            environ["HTTP_IF_MATCH"] = f'"{environ["HTTP_IF_MATCH"]}"'
        if bucket.startswith("no-range"):
            environ.pop("HTTP_RANGE", None)
        if bucket.startswith("short") and "HTTP_RANGE" in environ:
            first, _, last = environ["HTTP_RANGE"].partition("-")
            environ["HTTP_RANGE"] = f"{first}-{max(int(last) - 1, int(first.partition('=')[2]))}"
        if bucket.startswith("careless") and conditions:
            met = self._met(environ)
            time.sleep(0.05)
            if not met:
                return _error(start, "PreconditionFailed")
        if bucket.startswith(("careless", "deaf")):
            for name in conditions:
                del environ[name]
        with self._lock:
            return [b"".join(self._moto(environ, start))]

    def _met(self, environ: dict[str, Any]) -> bool:
        """Whether the conditions of a PUT hold now."""
        found: dict[str, str] = {}

        def note(status: str, headers: list[tuple[str, str]], *_: object) -> None:
            found.update({name.lower(): value for name, value in headers}, status=status)

        plain = {name: value for name, value in environ.items() if name not in _CONDITIONS}
        head = {**plain, "REQUEST_METHOD": "HEAD", "wsgi.input": io.BytesIO(), "CONTENT_LENGTH": "0"}
        for _ in self._moto(head, note):
            pass
        there = found["status"].startswith("200")
        if "HTTP_IF_NONE_MATCH" in environ:
            return not there
        return there and found.get("etag") == environ["HTTP_IF_MATCH"]


def _error(start: Start, code: str) -> list[bytes]:
    region = f"<Region>{REGION}</Region>" if code == "AuthorizationHeaderMalformed" else ""
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message>{region}</Error>".encode()
    headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(text)))]
    start(_STATUS.get(code, "403 Forbidden"), headers)
    return [text]


class _Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log(self, *_: object, **__: object) -> None:
        """Nobody reads it."""


def main(port: int) -> None:
    server = make_server("127.0.0.1", port, StrictS3(), threaded=True, request_handler=_Handler)
    server.socket.listen(256)
    print("READY", server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]))
