"""What runs on a machine before its power is cut: a few consecutive saves, with or without a mishap."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from ckstore import durable
from ckstore.storage import store as storage
from tests.crash.recorder import Nth, dying, failing
from tests.crash.replaced import replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.crash.machine import Machine

    Scenario = Callable[[Machine], bool]
    """Runs; whether its fault, if it has one, was met."""


@contextmanager
def rotating() -> Iterator[None]:
    """The journal begins a new segment as often as the rule of four snapshots' length allows."""
    with replaced(storage, "ROTATE_SIZE", 0):
        yield


def plain(machine: Machine) -> bool:
    """The repository is made, and three saves."""
    with machine.process() as process:
        for number in range(3):
            process.save(number)
    return True


def rotated(machine: Machine) -> bool:
    """Enough saves for the journal to begin two new segments."""
    with rotating(), machine.process() as process:
        for number in range(11):
            process.save(number)
    return True


def killed(call: int) -> Scenario:
    """A process is killed at its nth call, in a save that begins a journal segment or the next; others go on."""

    def scenario(machine: Machine) -> bool:
        fault = dying(call)
        with rotating():
            with machine.process() as process:
                for number in range(5):
                    process.save(number)
            with machine.process(fault) as process:
                process.save(5)
                process.save(6)
            for number in (7, 8):
                with machine.process() as process:
                    process.save(number)
        return fault.hit

    return scenario


def killed_in_init(call: int) -> Scenario:
    """A process is killed at its nth call while it makes the repository in a folder that is there; others go on."""

    def scenario(machine: Machine) -> bool:
        fault = dying(call)
        with machine.process():
            durable.make_folder(machine.folder)
        with machine.process(fault) as process:
            process.save(0)
        with machine.process() as process:
            process.save(1)
            process.save(2)
        return fault.hit

    return scenario


def killed_at_the_commit_point(machine: Machine) -> bool:
    """A process is killed when its record is written but not synced; others go on."""
    fault = dying(3, "fdatasync")
    with machine.process() as process:
        process.save(0)
    with machine.process(fault) as process:
        process.save(1)
    for number in (2, 3):
        with machine.process() as process:
            process.save(number)
    return fault.hit


def failed(make: Callable[[], Nth]) -> Scenario:
    """Calls fail in the saves 1 to 3; the process goes on, then another saves.

    With a fault that comes once, one save fails at most, and those after it succeed.
    """

    def scenario(machine: Machine) -> bool:
        fault = make()
        with machine.process() as process:
            process.save(0)
        with machine.process(fault) as process:
            done = [process.try_save(number) for number in range(1, 4)]
        with machine.process() as process:
            process.save(4)
        assert fault.times > 1 or done.count(False) <= 1, f"saves after a fault that is over: {done}"
        return fault.hit

    return scenario


def failed_while_another_saves(n: int) -> Scenario:
    """Two syncs of files fail, so that a journal segment is given up and none begun; others use it; the first goes on.

    The second of the others is killed before it has synced its record, which the first must follow.
    """

    def scenario(machine: Machine) -> bool:
        fault = failing("fdatasync", n, times=2)
        with machine.process() as process:
            process.save(0)
        with machine.process(fault) as process:
            process.try_save(1)
            with machine.process() as other:
                other.save(2)
            with machine.process(dying(3, "fdatasync")) as other:
                other.save(20)
            done = [process.try_save(number) for number in (3, 4, 5)]
        with machine.process() as process:
            process.save(6)
        assert not fault.hit or done.count(False) <= 2, f"saves after a fault that is over: {done}"
        return fault.hit

    return scenario


def two_writers(machine: Machine) -> bool:
    """One process saves while another is in the middle of a save on the same branch."""
    with machine.process() as process:
        process.save(0)
        met: list[str] = []

        def meanwhile(call: str, path: str) -> None:
            if not met and call == "open" and path.endswith(".part"):
                met.append(path)
                process.save(1)

        with machine.process(meanwhile) as other:
            other.save(2)
    return bool(met)


def collected(machine: Machine) -> bool:
    """Saves, each kept against older ones; gc; a save; gc again by another process."""
    with machine.process() as process:
        for number in range(5):
            process.save(number, "chain")
        process.collect()
        process.save(5, "chain")
    with machine.process() as process:
        process.save(6, "chain")
        process.collect()
    return True


def killed_in_gc(call: int) -> Scenario:
    """A process is killed at its nth call while it collects; others save and collect from there."""

    def scenario(machine: Machine) -> bool:
        fault = dying(call)
        with machine.process() as process:
            for number in range(4):
                process.save(number, "chain")
        with machine.process(fault) as process:
            process.collect()
        with machine.process() as process:
            process.save(4, "chain")
            process.collect()
        return fault.hit

    return scenario


def _old_and_new(machine: Machine) -> None:
    """Four commits; what seed 1 would save is in the oldest."""
    with machine.process() as process:
        for number in (0, 10, 20, 30):
            process.save(number)


def gc_beside_a_save(machine: Machine) -> bool:
    """gc takes away what a save relies on which is about to be published."""
    _old_and_new(machine)
    met: list[str] = []
    with machine.process() as process:

        def meanwhile(call: str, path: str) -> None:
            if not met and call == "open" and path.endswith(".part"):
                met.append(path)
                process.collect()

        with machine.process(meanwhile) as other:
            other.save(1)
    return bool(met)


def save_beside_a_gc(machine: Machine) -> bool:
    """A save relies on what gc has planned to take away and is about to."""
    _old_and_new(machine)
    met: list[str] = []
    with machine.process() as process:

        def meanwhile(call: str, path: str) -> None:
            if not met and call == "reopen" and path.endswith("/lock"):
                met.append(path)
                process.save(1)

        with machine.process() as opened:
            opened.save(40)
        with machine.process(meanwhile) as other:
            other.collect()
    return bool(met)
