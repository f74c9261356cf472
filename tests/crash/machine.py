"""A recorded disk, and the processes that run on it one after another."""

from __future__ import annotations

import warnings
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from ckstore.errors import Conflict, SaveFailed, StoreFull
from ckstore.porcelain.init import init
from ckstore.repository import open_repository
from tests.crash.operations import Acknowledged, Ended, Log
from tests.crash.recorder import Killed, RecordingOs, recording
from tests.crash.states import BRANCH, Label, collect, save

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ckstore.repository import Repository

REPOSITORY = "repo"
INDEX = f"{REPOSITORY}/.ckstore/index"


class Process:
    """Saves to a machine's repository; makes and opens it at the first save."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._stack = ExitStack()
        self._repository: Repository | None = None

    def save(self, seed: int, shape: str = "small") -> str:
        """Save, acknowledge; the commit's id. After a `Conflict`, again."""
        name = Label(shape, seed)
        try:
            id = save(self._opened(), name)
        except Conflict:
            return self.save(seed, shape)
        self._machine.acknowledge(id, name)
        return id

    def collect(self) -> None:
        """gc."""
        self._machine.collected = True
        collect(self._opened())

    def _opened(self) -> Repository:
        if self._repository is None:
            folder = self._machine.folder
            init(folder, BRANCH)
            opened = open_repository(folder, folder.with_name("cache"), threads=1)
            self._repository = self._stack.enter_context(opened)
        return self._repository

    def try_save(self, seed: int) -> bool:
        """`save`; False where it failed with one of the errors that a save may fail with."""
        try:
            self.save(seed)
        except (StoreFull, SaveFailed):
            return False
        return True

    def close(self) -> None:
        self._stack.close()


class Machine:
    """A disk under `root`, which is made, or adopted with what is there and what of it was acknowledged."""

    def __init__(self, root: Path, seed: int, adopted: dict[str, Label] | None = None) -> None:
        self.log = Log()
        self.collected = False
        self.folder = root / REPOSITORY
        self._os = RecordingOs(root, self.log)
        self._index_file = root / INDEX / "data.mdb"
        self._seed = seed
        if adopted is None:
            root.mkdir()
        else:
            self._os.adopt(self._index_file)
            for id, name in adopted.items():
                self.acknowledge(id, name)
        self.beginning = len(self.log.operations)

    @contextmanager
    def process(self, fault: Callable[[str, str], None] | None = None) -> Iterator[Process]:
        """A process, up to its end or its death by `fault`."""
        process = Process(self)
        killed = False
        self._seed += 1
        with recording(self._os.another(fault), self._index_file, self._seed), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                yield process
            except Killed:
                killed = True
            finally:
                process.close()
        self.log.operations.append(Ended(killed))

    def acknowledge(self, id: str, name: Label) -> None:
        """The save of `name` returns here and now."""
        self.log.operations.append(Acknowledged(id, name))

    @property
    def acknowledged(self) -> dict[str, Label]:
        """Commits whose save returned, by id."""
        return {one.id: one.name for one in self.log.operations if isinstance(one, Acknowledged)}
