"""A forked child that halts as it enters each call that changes the disk, until it is told to go on or killed.

By a seccomp filter with a listener: cheaper than a tracer, and it sees LMDB's calls too.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import select
import signal
import socket
import struct
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING

from tests.crash.traced import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

CALLS = {
    "write": 1, "pwrite64": 18, "writev": 20, "msync": 26, "sendfile": 40, "fsync": 74, "fdatasync": 75,
    "truncate": 76, "ftruncate": 77, "rename": 82, "mkdir": 83, "rmdir": 84, "creat": 85, "link": 86, "unlink": 87,
    "symlink": 88, "openat": 257, "mkdirat": 258, "unlinkat": 263, "renameat": 264, "linkat": 265,
    "sync_file_range": 277, "fallocate": 285, "pwritev": 296, "syncfs": 306, "renameat2": 316,
    "copy_file_range": 326, "pwritev2": 328,
}  # fmt: skip
"""Their numbers on x86-64. Of openat only those that may make a file."""

PATIENCE_S = 60.0

_NAMES = {number: name for name, number in CALLS.items()}
_SECCOMP, _SET_FILTER, _NEW_LISTENER = 317, 1, 8
_RECEIVE, _SEND, _CONTINUE = 0xC0502100, 0xC0182101, 1
_NO_NEW_PRIVILEGES, _DIE_WITH_PARENT = 38, 1
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_FLAGS_OF_OPENAT = 16 + 2 * 8


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def _filter() -> bytes:
    """BPF: a jump for each call to the last instruction, which halts; others go through."""
    others = [number for name, number in CALLS.items() if name != "openat"]
    code = [(_LOAD, 0, 0, 0)]
    code += [(_EQUAL, len(others) - at + 3, 0, number) for at, number in enumerate(others)]
    code += [
        (_EQUAL, 0, 2, CALLS["openat"]),
        (_LOAD, 0, 0, _FLAGS_OF_OPENAT),
        (_ANY_BIT, 1, 0, os.O_CREAT),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _NOTIFY),
    ]
    return b"".join(struct.pack("HBBI", *one) for one in code)


def _listener() -> int:
    """Filter this process from here on; what tells of its calls. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    code = _filter()
    program = _Program(len(code) // 8, code)
    descriptor: int = libc.syscall(_SECCOMP, _SET_FILTER, _NEW_LISTENER, ctypes.byref(program))
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "seccomp with a listener")
    return descriptor


class Halted:
    """The child, which does `work` with its end of the channel that it reports through."""

    def __init__(self, work: Callable[[socket.socket], None]) -> None:
        self._channel, theirs = socket.socketpair()
        self._pid = os.fork()
        if not self._pid:
            self._channel.close()
            _be_the_child(work, theirs)
        theirs.close()
        self._received = b""
        self._halted_in: int | None = None
        self._process = os.pidfd_open(self._pid)
        said, descriptors, _, _ = socket.recv_fds(self._channel, 1, 1)
        if not descriptors:
            self.kill()
            raise OSError("no filter of system calls with a listener here")
        assert said == b"?"
        self._calls = descriptors[0]

    def next(self) -> str | None:
        """Wait until the child enters a call, and which; None: it has ended."""
        poll = select.poll()
        poll.register(self._calls, select.POLLIN)
        poll.register(self._process, select.POLLIN)
        while True:
            events = dict(poll.poll(PATIENCE_S * 1000))
            assert events, "the child hangs"
            if events.get(self._calls, 0) & select.POLLIN:
                notice = bytearray(80)
                with suppress(FileNotFoundError):
                    fcntl.ioctl(self._calls, _RECEIVE, notice, True)
                    self._halted_in, number = struct.unpack_from("Q8xi", notice)
                    return _NAMES[number]
            if self._process in events:
                return None

    def go_on(self) -> None:
        """Let the child do the call it is halted in."""
        with suppress(FileNotFoundError):
            fcntl.ioctl(self._calls, _SEND, struct.pack("QqiI", self._halted_in, 0, 0, _CONTINUE))

    def kill(self) -> Outcome:
        """End the child if it still runs. What it had reported by then was received."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._process, signal.SIGKILL)
        _, status = os.waitpid(self._pid, 0)
        os.close(self._process)
        while data := self._channel.recv(1 << 16):
            self._received += data
        self._channel.close()
        if hasattr(self, "_calls"):
            os.close(self._calls)
        lines = self._received.split(b"\n")[:-1]
        return Outcome(os.waitstatus_to_exitcode(status), [json.loads(line) for line in lines])


def _be_the_child(work: Callable[[socket.socket], None], channel: socket.socket) -> None:
    """Never returns."""
    try:
        listener = _listener()
        socket.send_fds(channel, [b"?"], [listener])
        os.close(listener)
        work(channel)
    except BaseException:  # nothing of the parent's may run in the child
        with suppress(OSError):
            channel.sendall(json.dumps({"raised": traceback.format_exc()}).encode() + b"\n")
        os._exit(1)
    os._exit(0)
