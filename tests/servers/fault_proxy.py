"""An HTTP proxy that does to requests what networks and servers do: `python -m tests.servers.fault_proxy PORT UPSTREAM`

POST a JSON list of rules to `/__faults__`; GET it to see how often each was applied. A rule is
`{"match": regex on "METHOD target", "skip": requests, "count": requests (-1: all), "action": ...}`, with `n` bytes,
`s` seconds, or a `status`:

    delay             waits `s` before the request goes on
    status            answers `status` itself; the server sees nothing (`retry_after` adds that header)
    reset_request     cuts the connection after `n` bytes of the request's body
    stall_request     reads no more of the request's body after `n` bytes, for `s`, then cuts
    reset_response    cuts it after `n` bytes of the answer's body
    truncate          ends it in an orderly way after `n` bytes of the answer's body
    stall             sends no more after `n` bytes of the answer's body, for `s`, then cuts
    drop_response     lets the server do what it was asked, and cuts the connection then
    corrupt           flips byte `n` of the answer's body
    corrupt_request   flips byte `n` of the request's body
    throttle          sends the answer at `n` bytes a second
    twice             sends the request to the server two times, and gives back the second answer
"""

from __future__ import annotations

import json
import re
import socket
import struct
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCK = 256 << 10
_SLOW = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
_OF_REQUESTS = ("reset_request", "stall_request", "corrupt_request")
_OF_ANSWERS = ("reset_response", "truncate", "stall", "corrupt", "throttle")
_WHOLE = ("throttle", "corrupt", "corrupt_request")
Rule = dict[str, Any]


class Cut(Exception):
    """The connection ends here; its text is the action that wants it."""


class Head(NamedTuple):
    """The first line of a message, its headers, and all that as it came."""

    line: str
    headers: dict[str, str]
    raw: bytes


class Stream:
    """One side of a connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._ahead = b""

    def head(self) -> Head | None:
        while b"\r\n\r\n" not in self._ahead:
            data = self.sock.recv(65536)
            if not data:
                return None
            self._ahead += data
        raw, _, self._ahead = self._ahead.partition(b"\r\n\r\n")
        first, *lines = raw.decode("latin1").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        return Head(first, {name.strip().lower(): value.strip() for name, _, value in pairs}, raw + b"\r\n\r\n")

    def body(self, headers: dict[str, str]) -> Iterator[bytes]:
        if "chunked" in headers.get("transfer-encoding", "").lower():
            while True:
                line = self._line()
                yield line
                yield from self._exactly(int(line.split(b";")[0], 16) + 2)
                if line.startswith(b"0"):
                    return
        yield from self._exactly(int(headers.get("content-length", "0")))

    def _exactly(self, count: int) -> Iterator[bytes]:
        while count:
            data, self._ahead = self._ahead[:count], self._ahead[count:]
            data = data or self.sock.recv(min(count, _BLOCK))
            if not data:
                raise Cut("end")
            count -= len(data)
            yield data

    def _line(self) -> bytes:
        while b"\r\n" not in self._ahead:
            data = self.sock.recv(65536)
            if not data:
                raise Cut("end")
            self._ahead += data
        line, _, self._ahead = self._ahead.partition(b"\r\n")
        return line + b"\r\n"


class Proxy:
    """The rules, and what they do to each connection."""

    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self._rules: list[Rule] = []
        self._lock = threading.Lock()

    def serve(self, sock: socket.socket) -> None:
        rule: Rule = {}
        with suppress(OSError, ValueError), sock:
            client = Stream(sock)
            try:
                while (request := client.head()) is not None:
                    method, target, _ = request.line.split(" ", 2)
                    if target == "/__faults__":
                        self._control(client, method, b"".join(client.body(request.headers)))
                        continue
                    rule = self._rule(f"{method} {target}")
                    self._pass(client, request, method, rule)
            except Cut as cut:
                if str(cut) in ("stall", "stall_request"):
                    time.sleep(rule.get("s", 30))
                if str(cut) != "truncate":
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _control(self, client: Stream, method: str, said: bytes) -> None:
        with self._lock:
            if method == "POST":
                self._rules = json.loads(said)
            text = json.dumps(self._rules).encode()
        client.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))

    def _rule(self, line: str) -> Rule:
        """The first rule that applies to a request."""
        with self._lock:
            for rule in self._rules:
                if re.search(rule.get("match", "."), line):
                    rule["seen"] = rule.get("seen", 0) + 1
                    hits, count = rule.get("hits", 0), rule.get("count", 1)
                    if rule["seen"] > rule.get("skip", 0) and (count < 0 or hits < count):
                        rule["hits"] = hits + 1
                        return rule
        return {}

    def _pass(self, client: Stream, request: Head, method: str, rule: Rule) -> None:
        action = rule.get("action")
        if action == "delay":
            time.sleep(rule.get("s", 0.2))
        if action == "status":
            return self._refuse(client, request, method, rule)
        with socket.create_connection(("127.0.0.1", self._upstream)) as sock:
            if action == "twice":
                body = b"".join(self._awaited(client, request))
                raw = re.sub(rb"(?i)\r\nexpect:[^\r]*", b"", request.raw)
                with socket.create_connection(("127.0.0.1", self._upstream)) as first:
                    first.sendall(raw + body)
                    self._answer(Stream(first), None, method, rule)
                sock.sendall(raw + body)
                return self._answer(Stream(sock), client, method, rule)
            sock.sendall(request.raw)
            failed: list[Cut] = []
            pump = threading.Thread(target=self._pump, args=(client, sock, request, rule, failed), daemon=True)
            pump.start()
            try:
                self._answer(Stream(sock), client, method, rule)
            except Cut as cut:
                raise (failed[0] if failed else cut) from None
            except OSError:
                if failed:
                    raise failed[0] from None
                raise
            finally:
                if action not in _OF_REQUESTS:
                    pump.join(60)
        return None

    def _awaited(self, client: Stream, request: Head) -> Iterator[bytes]:
        if "100-continue" in request.headers.get("expect", "").lower():
            client.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        return client.body(request.headers)

    def _refuse(self, client: Stream, request: Head, method: str, rule: Rule) -> None:
        for _ in self._awaited(client, request):
            pass
        text = b"" if method == "HEAD" else rule.get("body", "").encode() or _SLOW
        after = b"Retry-After: %d\r\n" % rule["retry_after"] if "retry_after" in rule else b""
        first = b"HTTP/1.1 %d Injected\r\nContent-Type: application/xml\r\n" % rule.get("status", 503)
        client.sock.sendall(first + after + b"Content-Length: %d\r\n\r\n%s" % (len(text), text))

    def _pump(self, client: Stream, server: socket.socket, request: Head, rule: Rule, failed: list[Cut]) -> None:
        """The request's body, on its way to the server."""
        try:
            _send(server, client.body(request.headers), rule, _OF_REQUESTS)
        except (Cut, OSError) as error:
            failed.append(error if isinstance(error, Cut) else Cut("end"))
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)

    def _answer(self, server: Stream, client: Stream | None, method: str, rule: Rule) -> None:
        while True:
            head = server.head()
            if head is None:
                raise Cut("end")
            status = int(head.line.split()[1])
            if status >= 200:
                break
            if client is not None:
                client.sock.sendall(head.raw)
        empty = method == "HEAD" or status in (204, 304)
        body = iter(()) if empty else server.body(head.headers)
        if client is None or rule.get("action") == "drop_response":
            for _ in body:
                pass
            if client is not None:
                raise Cut("drop_response")
            return
        client.sock.sendall(head.raw)
        _send(client.sock, body, rule, _OF_ANSWERS)
        if "close" in head.headers.get("connection", "").lower():
            raise Cut("truncate")


def _send(sock: socket.socket, body: Iterator[bytes], rule: Rule, actions: tuple[str, ...]) -> None:
    """Pass a body on, with what the rule does to it if that is one of `actions`."""
    action = rule.get("action") if rule.get("action") in actions else None
    at, n = 0, rule.get("n", 0)
    for data in body:
        if action == "throttle":
            time.sleep(len(data) / max(n, 1))
        elif action in ("corrupt", "corrupt_request") and at <= n < at + len(data):
            data = data[: n - at] + bytes([data[n - at] ^ 0xFF]) + data[n - at + 1 :]
        elif action is not None and action not in _WHOLE and at + len(data) > n:
            sock.sendall(data[: n - at])
            raise Cut(action)
        sock.sendall(data)
        at += len(data)


def main(port: int, upstream: int) -> None:
    proxy = Proxy(upstream)
    listener = socket.create_server(("127.0.0.1", port), backlog=256)
    print("READY", listener.getsockname()[1], flush=True)
    while True:
        threading.Thread(target=proxy.serve, args=(listener.accept()[0],), daemon=True).start()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
