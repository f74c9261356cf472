"""Processes that need not be started: `python -m tests.nursery DESCRIPTOR MODULE...` imports, and forks one an order.

An interpreter that imports what a save needs takes ten times as long to start as the save takes, one with torch fifty
times. A child is a process of its own, in which nothing is open; the process between it and the nursery tells its end.
"""

from __future__ import annotations

import atexit
import gc
import importlib
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

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT = Path(__file__).parents[1]
_PATIENCE_S = 300.0
_ORDER_BYTES = 1 << 18
_DESCRIPTORS = 8


class Born:
    """A child, from outside: its `pid`, and how it ends."""

    def __init__(self, orders: socket.socket, order: str, descriptors: Sequence[int]) -> None:
        self._told, teller = socket.socketpair()
        with teller:
            socket.send_fds(orders, [order.encode()], [teller.fileno(), *descriptors])
        self._told.settimeout(_PATIENCE_S)
        said, found, _, _ = socket.recv_fds(self._told, 64, 1)
        assert found, "the nursery has ended"
        self.pid, self._process = int(said), found[0]

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        try:
            signal.pidfd_send_signal(self._process, signal.SIGKILL)
        except ProcessLookupError:
            return

    def ended(self) -> int:
        """Wait for its end: its exit status (negative: the signal)."""
        status = int(self._told.recv(64))
        self._told.close()
        os.close(self._process)
        return status


def bear(work: str, words: Sequence[object], descriptors: Sequence[int], modules: Sequence[str]) -> Born:
    """A child that calls `work` ("module:function") with `words` and its own copies of `descriptors`, and ends.

    It comes from the nursery that has imported `modules`, which is made for the first.
    """
    with _LOCK:
        orders = _nursery(*modules)
    return Born(orders, json.dumps([work, *map(str, words)]), descriptors)


_LOCK = threading.Lock()


@cache
def _nursery(*modules: str) -> socket.socket:
    orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-B", "-m", "tests.nursery", str(theirs.fileno()), *modules],
            cwd=ROOT,
            pass_fds=[theirs.fileno()],
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    @atexit.register
    def close() -> None:
        orders.close()
        process.wait(_PATIENCE_S)

    return orders


def main() -> None:
    """Fork at each order, until nobody can give one any more."""
    for name in sys.argv[2:]:
        importlib.import_module(name)
    gc.freeze()  # else each child's collector copies the pages of all that was imported
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those in between
    with socket.socket(fileno=int(sys.argv[1])) as orders:
        while True:
            order, descriptors, _, _ = socket.recv_fds(orders, _ORDER_BYTES, _DESCRIPTORS)
            if not order:
                return
            _forked(partial(_mind, orders, *json.loads(order), descriptors=descriptors))
            for descriptor in descriptors:
                os.close(descriptor)


def _forked(work: Callable[[], object]) -> int:
    """A forked process that does `work`, and ends as any that has come to the end of its program.

    But for the taking apart of modules, which takes longer than most of what is done here.
    """
    pid = os.fork()
    if pid:
        return pid
    status = 0
    try:
        work()
    except SystemExit as ends:
        status = ends.code if isinstance(ends.code, int) else int(ends.code is not None)
        if isinstance(ends.code, str):
            print(ends.code, file=sys.stderr)
    except BaseException:  # nothing of the parent's may run in the child
        sys.excepthook(*sys.exc_info())
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _mind(orders: socket.socket, work: str, *words: str, descriptors: list[int]) -> None:
    """Have the child, say which process it is, and how it ended."""
    orders.close()
    teller, *given = descriptors
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    module, _, function = work.partition(":")

    def live() -> None:
        os.close(teller)
        getattr(importlib.import_module(module), function)(words, given)

    pid = _forked(live)
    for descriptor in given:
        os.close(descriptor)
    with socket.socket(fileno=teller) as told:
        socket.send_fds(told, [str(pid).encode()], [os.pidfd_open(pid)])
        _, status = os.waitpid(pid, 0)
        told.sendall(str(os.waitstatus_to_exitcode(status)).encode())


if __name__ == "__main__":
    main()
