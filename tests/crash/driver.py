"""What the child does that saves and is killed, starved or lied to (tests/nursery.py has it).

It reports through a socket, by calls that no fault is injected into: one JSON line a save, sent after the
commit has returned. One thread stores the chunks, so that the Nth call of a kind is the same one in each run.
It says `?` once it has started, and waits for a byte from there.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import warnings
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from ckstore import durable
from ckstore.errors import CkstoreError, Conflict
from ckstore.porcelain.init import init
from ckstore.repository import open_repository
from ckstore.storage import store as storage
from tests.crash.replaced import replaced
from tests.crash.states import BRANCH, Label, collect, save

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckstore.repository import Repository


class Child:
    """Opens the repository, made if absent and if it `makes_it`, at the first save that gets so far; keeps it open."""

    def __init__(self, folder: Path, channel: socket.socket, *, makes_it: bool) -> None:
        self._folder = folder
        self._channel = channel
        self._makes_it = makes_it
        self._repository: Repository | None = None

    def attempt(self, name: Label) -> None:
        """One save, and its report: the commit's id, or the typed error; and the warnings on the way."""
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                outcome = {"id": self._save(name)}
            except CkstoreError as error:
                outcome = {"error": type(error).__name__, "what": str(error)}
        self.report(name=str(name), warned=[f"{w.category.__name__}: {w.message}" for w in said], **outcome)

    def collect(self) -> None:
        """One gc, and its report."""
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                collect(self._opened())
                outcome: dict[str, object] = {"collected": True}
            except CkstoreError as error:
                outcome = {"error": type(error).__name__, "what": str(error)}
        self.report(warned=[f"{w.category.__name__}: {w.message}" for w in said], **outcome)

    def report(self, **line: object) -> None:
        self._channel.sendall(json.dumps(line).encode() + b"\n")

    def _opened(self) -> Repository:
        if self._repository is None:
            if self._makes_it:
                init(self._folder, BRANCH)
            self._repository = open_repository(self._folder, self._folder.with_name("cache"), threads=1)
        return self._repository

    def _save(self, name: Label) -> str:
        while True:
            try:
                return save(self._opened(), name)
            except Conflict:
                continue


def _seeds(arguments: argparse.Namespace) -> Iterator[int]:
    if arguments.saves:
        return iter(range(arguments.first, arguments.first + arguments.saves * arguments.stride, arguments.stride))
    return count(arguments.first, arguments.stride)


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """What a child is told to do."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", default="small")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--saves", type=int, default=1, help="0: until killed")
    parser.add_argument("--init", action="store_true")
    parser.add_argument("--rotate", action="store_true", help="begin journal segments as often as the rule allows")
    parser.add_argument("--ahead", action="store_true", help="blocks are taken ahead as for large packs")
    parser.add_argument("--collect-every", type=int, default=0, help="gc after so many saves")
    parser.add_argument("--collect-first", action="store_true", help="gc before the first save")
    parser.add_argument("--file-limit", type=int, default=0, help="bytes a file may have")
    return parser.parse_args(arguments)


def live(words: Sequence[str], descriptors: Sequence[int]) -> None:
    """All that the child does, as `words` say, with a channel and a file for what goes to stderr."""
    arguments = parsed(words)
    channel = socket.socket(fileno=descriptors[0])
    os.dup2(descriptors[1], 2)
    os.close(descriptors[1])
    if arguments.file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (arguments.file_limit, arguments.file_limit))
    channel.sendall(b"?")
    channel.recv(1)  # a tracer may attach itself in between
    work(arguments, channel)


def work(arguments: argparse.Namespace, channel: socket.socket) -> None:
    """The saves, each reported."""
    child = Child(arguments.folder, channel, makes_it=arguments.init)
    with ExitStack() as stack:
        if arguments.rotate:
            stack.enter_context(replaced(storage, "ROTATE_SIZE", 0))
        if arguments.ahead:
            for name, value in (("_WRITE_BACK_BYTES", 128 << 10), ("_AHEAD_BYTES", 512 << 10), ("_AMPLE_BYTES", 0)):
                stack.enter_context(replaced(durable, name, value))
        for number, seed in enumerate(_seeds(arguments), 1):
            if arguments.collect_first and number == 1:
                child.collect()
            child.attempt(Label(arguments.shape, seed))
            if arguments.collect_every and number % arguments.collect_every == 0:
                child.collect()
