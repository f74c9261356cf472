"""Where the crash tests' children come from: `python -m tests.crash.nursery DESCRIPTOR`, which forks one an order.

All that a save needs is imported there once: an interpreter that starts anew takes ten times as long as a save does.
A child is a process of its own, in which nothing is open. The process between it and the nursery tells its status.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tests.crash import driver

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0
_ORDER_BYTES = 1 << 16


class Born:
    """A child, from outside: its `pid`, the channel that it reports through, and how it ends."""

    def __init__(self, orders: socket.socket, arguments: Sequence[object]) -> None:
        self.channel, theirs = socket.socketpair()
        self._told, teller = socket.socketpair()
        self._errors = os.memfd_create("stderr")
        with theirs, teller:
            order = json.dumps([str(word) for word in arguments]).encode()
            socket.send_fds(orders, [order], [theirs.fileno(), teller.fileno(), self._errors])
        self._told.settimeout(PATIENCE_S)
        said, descriptors, _, _ = socket.recv_fds(self._told, 64, 1)
        self.pid, self._process = int(said), descriptors[0]

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        try:
            signal.pidfd_send_signal(self._process, signal.SIGKILL)
        except ProcessLookupError:
            return

    def ended(self) -> tuple[int, str]:
        """Wait for its end: its exit status (negative: the signal), and what it said to stderr."""
        status = int(self._told.recv(64))
        self._told.close()
        os.close(self._process)
        with open(self._errors, "rb") as file:
            file.seek(0)
            return status, file.read().decode()


def bear(arguments: Sequence[object]) -> Born:
    """A child of the nursery of this process, which is made for the first."""
    with _LOCK:
        orders = _nursery()
    return Born(orders, arguments)


_LOCK = threading.Lock()


@cache
def _nursery() -> socket.socket:
    orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-B", "-m", "tests.crash.nursery", str(theirs.fileno())],
            cwd=ROOT,
            pass_fds=[theirs.fileno()],
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    @atexit.register
    def close() -> None:
        orders.close()
        process.wait(PATIENCE_S)

    return orders


def main() -> None:
    """Fork at each order, until nobody can give one any more."""
    assert np  # a child's states are made with it
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those in between
    with socket.socket(fileno=int(sys.argv[1])) as orders:
        while True:
            order, descriptors, _, _ = socket.recv_fds(orders, _ORDER_BYTES, 3)
            if not order:
                return
            _forked(partial(_mind, orders, json.loads(order), *descriptors))
            for descriptor in descriptors:
                os.close(descriptor)


def _forked(work: Callable[[], None]) -> int:
    """A forked process that does `work` and ends."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
    except BaseException:  # nothing of the parent's may run in the child
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)


def _mind(orders: socket.socket, arguments: Sequence[str], channel: int, teller: int, errors: int) -> None:
    """Have the child, say which process it is, and how it ended."""
    orders.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def live() -> None:
        os.close(teller)
        os.dup2(errors, 2)
        os.close(errors)
        driver.live(arguments, socket.socket(fileno=channel))

    pid = _forked(live)
    os.close(channel)
    os.close(errors)
    with socket.socket(fileno=teller) as told:
        socket.send_fds(told, [str(pid).encode()], [os.pidfd_open(pid)])
        _, status = os.waitpid(pid, 0)
        told.sendall(str(os.waitstatus_to_exitcode(status)).encode())


if __name__ == "__main__":
    main()
