"""No room: tmpfs of 1 to 16 MiB, every number of free pages, and files that may not grow (short writes).

A save fails with `StoreFull` or `SaveFailed`, or is acknowledged; nothing ends in a SIGBUS; once there is room
again, all that was acknowledged is there and the next save succeeds.
"""

from __future__ import annotations

import shutil
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.crash import traced
from tests.crash.oracle import judge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.crash.states import Label
    from tests.crash.traced import Outcome

PAGE = 4096
PREPARED = ["--init", "--saves", 2]


@contextmanager
def tmpfs(folder: Path, size_mib: int) -> Iterator[Path]:
    """A small file system; skips where it cannot be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a tmpfs here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def grow(folder: Path, size_mib: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size_mib}m", str(folder)], check=True)


def fill(folder: Path, free_pages: int) -> None:
    """Take all room but `free_pages`."""
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(PAGE))
        except OSError:
            file.truncate(max(0, file.tell() - free_pages * PAGE))


def misreported(outcome: Outcome, saves: int) -> list[str]:
    """What the child said or did that it must not."""
    allowed = (None, "StoreFull", "SaveFailed")
    wrong = [f"raised {report}" for report in outcome.reports if report.get("error") not in allowed]
    if outcome.status or len(outcome.reports) != saves:
        wrong.append(f"ended with {outcome}")
    return wrong


@pytest.mark.parametrize(
    ("size_mib", "shape", "saves"),
    [(1, "small", 80), (2, "small", 160), (4, "large", 12), (8, "large", 16), (16, "large", 24)],
)
def test_saving_until_a_disk_is_full(size_mib: int, shape: str, saves: int, tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", size_mib) as disk:
        outcome = traced.run(disk / "repo", ["--init", "--shape", shape, "--saves", saves])
        assert misreported(outcome, saves) == []
        assert "StoreFull" in {report.get("error") for report in outcome.reports}
        grow(disk, 64)
        assert judge(disk / "repo", outcome.acknowledged) == []


@pytest.mark.parametrize("prepared", [[], [*PREPARED, "--shape", "large"]], ids=["init", "save"])
def test_every_number_of_free_pages(
    prepared: list[object], tmp_path: Path, count: Callable[[str, int], None], scale: int
) -> None:
    """From none to enough."""
    succeeded = failed = 0
    wrong = []
    with tmpfs(tmp_path / "disk", 16) as disk:
        for free in [*range(48 if not prepared else 16), *range(16, 800, max(1, 98 // scale)), 1500]:
            acknowledged: dict[str, Label] = {}
            if prepared:
                acknowledged = traced.run(disk / "repo", prepared).acknowledged
                assert len(acknowledged) == 2
            fill(disk, free)
            shape = "large" if prepared else "tiny"
            outcome = traced.run(disk / "repo", ["--init", "--first", 2, "--saves", 2, "--shape", shape])
            (disk / "filler").unlink()
            violations = misreported(outcome, 2) + judge(disk / "repo", {**acknowledged, **outcome.acknowledged})
            wrong += [f"{free} free pages: {violation}" for violation in violations]
            succeeded += len(outcome.acknowledged)
            failed += 2 - len(outcome.acknowledged)
            shutil.rmtree(disk / "repo")
            if free > 20 and len(outcome.acknowledged) == 2 and not prepared:
                break
    count("saves on a full disk", succeeded + failed)
    assert not wrong, "\n".join(wrong)
    assert succeeded
    assert failed


def test_files_that_may_not_grow(tmp_path: Path, count: Callable[[str, int], None], scale: int) -> None:
    """RLIMIT_FSIZE cuts writes short: of packs, of the journal's record at each place (W4), of LMDB (W5)."""
    template = tmp_path / "template"
    prepared = traced.run(template, ["--init", "--saves", 16, "--shape", "tiny"])
    assert len(prepared.acknowledged) == 16
    (journal,) = (template / ".ckstore" / "journal").iterdir()
    size = journal.stat().st_size
    limits = [40, 500, 2000, *range(size - 8, size + 320, max(1, 24 // scale)), 2 * size, 1 << 20]
    warned = failed = 0
    wrong = []
    for limit in limits:
        folder = tmp_path / "repo"
        shutil.copytree(template, folder)
        arguments = ["--first", 100, "--saves", 2, "--shape", "tiny", "--file-limit", limit]
        outcome = traced.run(folder, arguments)
        violations = misreported(outcome, 2) + judge(folder, {**prepared.acknowledged, **outcome.acknowledged})
        wrong += [f"a limit of {limit} bytes, the journal has {size}: {violation}" for violation in violations]
        warned += sum(1 for report in outcome.reports if "id" in report and report["warned"])
        failed += sum(1 for report in outcome.reports if "id" not in report)
        shutil.rmtree(folder)
    count("saves under a file size limit", 2 * len(limits))
    assert not wrong, "\n".join(wrong)
    assert warned
    assert failed
