"""Files that are read together: few open at a time, and none that changed is taken for what it was."""

from __future__ import annotations

import os
import random
import resource
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from ckstore.errors import CkstoreError, Conflict, InvalidInput, NotFound
from ckstore.files.bundle import bundle_files
from ckstore.files.source import Files, HeldSource, MappedSource, PartSource, window

if TYPE_CHECKING:
    from collections.abc import Callable

MANY = 200
"""More files than are kept open."""

MOST_DESCRIPTORS = 160
"""Two for each file that is kept open, and some to spare."""

SIZE = 3000

needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are counted in Linux's /proc")
not_root = pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def content(number: int) -> bytes:
    return random.Random(number).randbytes(SIZE + number)


def written(folder: Path, count: int = MANY) -> list[Path]:
    paths = [folder / f"{number}.bin" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(content(number))
    return paths


def let_go(files: Files, folder: Path) -> None:
    """Add so many files that those before are not open any more."""
    for path in written(folder, 100):
        files.add(path)


# More files than may be open


@needs_proc
def test_many_files_are_read_with_few_open(tmp_path: Path) -> None:
    paths = written(tmp_path)
    before = descriptors()
    most = 0
    with Files() as files:
        sources = [files.add(path) for path in paths]
        opens = [window(source, 100, SIZE - 100) for source in sources]
        order = random.Random(1)
        for _ in range(2000):
            number, start = order.randrange(MANY), order.randrange(SIZE - 100)
            stop = order.randrange(start, SIZE - 100 + 1)
            assert opens[number](start, stop) == content(number)[100 + start : 100 + stop]
            most = max(most, descriptors() - before)
        files.check_unchanged()
        assert 0 < most < MOST_DESCRIPTORS
    assert descriptors() <= before


@needs_proc
def test_many_threads_read_the_same_files(tmp_path: Path) -> None:
    paths = written(tmp_path)
    before = descriptors()
    with Files() as files:
        sources = [files.add(path) for path in paths]

        def read(seed: int) -> int:
            order = random.Random(seed)
            most = 0
            for _ in range(400):
                number = order.randrange(MANY)
                assert sources[number].view() == content(number)
                most = max(most, descriptors() - before)
            return most

        with ThreadPoolExecutor(8) as pool:
            assert max(pool.map(read, range(8))) < MOST_DESCRIPTORS
    assert descriptors() <= before


@needs_proc
def test_parsed_files_do_not_stay_open(tmp_path: Path) -> None:
    """Numpy arrays, long texts and the like of a pickle hold no mapping."""
    state = {"w": torch.ones(50), "a": torch.ones(3000).numpy(), "t": "x" * 9000, "b": b"y" * 9000, "i": 1 << 80_000}
    torch.save(state, tmp_path / "0.pt")
    data = (tmp_path / "0.pt").read_bytes()
    for number in range(1, MANY):
        (tmp_path / f"{number}.pt").write_bytes(data)
    before = descriptors()
    with Files() as files:
        bundle = bundle_files({path.name: files.add(path) for path in sorted(tmp_path.iterdir())})
        assert len(bundle.components) == MANY
        assert descriptors() - before < MOST_DESCRIPTORS
    assert descriptors() <= before


def test_a_view_outlives_its_file(tmp_path: Path) -> None:
    (path,) = written(tmp_path, 1)
    with Files() as files:
        view = files.add(path).view()
        let_go(files, tmp_path)
        assert view == content(0)
    assert view == content(0)


def test_parts_and_windows_are_where_they_say(tmp_path: Path) -> None:
    (path,) = written(tmp_path, 1)
    with Files() as files:
        for source in (files.add(path), HeldSource(content(0))):
            part = PartSource(source, 10, 50)
            assert part.size_bytes == 50
            assert part.view() == content(0)[10:60]
            assert window(part, 5, 20)(3, 9) == content(0)[18:24]
            assert window(part, 5, 20)(3, 90) == content(0)[18:35]


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.touch()
    with Files() as files:
        source = files.add(path)
        assert (source.size_bytes, bytes(source.view())) == (0, b"")
        let_go(files, tmp_path)
        assert bytes(source.view()) == b""
        path.write_bytes(b"x")
        with pytest.raises(Conflict):
            files.check_unchanged()


# Files that change


def in_place(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[7] ^= 1
    with path.open("r+b") as file:
        file.write(data)


def cut_short(path: Path) -> None:
    os.truncate(path, SIZE // 2)


def longer(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def replaced(path: Path) -> None:
    other = path.with_suffix(".new")
    other.write_bytes(path.read_bytes())
    times = path.stat()
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.rename(path)


def removed(path: Path) -> None:
    path.unlink()


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def touched(path: Path) -> None:
    os.utime(path, ns=(1, 1))


CHANGES = [in_place, cut_short, longer, replaced, removed, a_folder, touched]


def added(tmp_path: Path) -> tuple[Files, MappedSource]:
    (tmp_path / "more").mkdir()
    path = tmp_path / "file.bin"
    path.write_bytes(content(0))
    os.utime(path, ns=(10**18, 10**18))
    files = Files()
    return files, files.add(path)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_after_it_was_let_go(tmp_path: Path, change: Callable[[Path], None]) -> None:
    files, source = added(tmp_path)
    with files:
        let_go(files, tmp_path / "more")
        files.check_unchanged()
        change(source.path)
        with pytest.raises(Conflict, match=r"file\.bin changed while it was read") as caught:
            files.check_unchanged()
        assert caught.value.hint
        with pytest.raises((Conflict, NotFound, InvalidInput), match=r"file\.bin") as read:
            source.view()
        assert read.value.hint


@pytest.mark.parametrize("change", [in_place, cut_short, longer, touched])
def test_a_change_while_it_is_open(tmp_path: Path, change: Callable[[Path], None]) -> None:
    files, source = added(tmp_path)
    with files:
        change(source.path)
        with pytest.raises(Conflict, match=r"file\.bin changed while it was read"):
            files.check_unchanged()


@pytest.mark.parametrize("change", [replaced, removed, a_folder])
def test_a_file_that_is_open_may_lose_its_name(tmp_path: Path, change: Callable[[Path], None]) -> None:
    files, source = added(tmp_path)
    with files:
        change(source.path)
        assert source.view() == content(0)
        files.check_unchanged()


def test_a_change_is_seen_among_many(tmp_path: Path) -> None:
    paths = written(tmp_path)
    with Files() as files:
        sources = [files.add(path) for path in paths]
        files.check_unchanged()
        in_place(paths[3])
        assert sources[150].view() == content(150)
        with pytest.raises(Conflict, match=r"3\.bin"):
            files.check_unchanged()


@needs_proc
def test_a_file_that_changed_is_not_kept_open(tmp_path: Path) -> None:
    before = descriptors()
    files, source = added(tmp_path)
    with files:
        let_go(files, tmp_path / "more")
        held = descriptors()
        cut_short(source.path)
        for _ in range(50):
            with pytest.raises(Conflict):
                source.view()
        assert descriptors() == held
    assert descriptors() <= before


@needs_proc
def test_a_file_that_cannot_be_mapped(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.touch()
    os.truncate(path, 1 << 40)
    before, (soft, hard) = descriptors(), resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 39, hard))
    try:
        with Files() as files, pytest.raises(InvalidInput, match="cannot read") as caught:
            files.add(path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert caught.value.hint
    assert descriptors() <= before


# What is no file to read


def bound(path: Path) -> None:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.close()


NO_FILES: dict[str, tuple[type[CkstoreError], Callable[[Path], object]]] = {
    "missing": (NotFound, lambda path: None),
    "folder": (InvalidInput, Path.mkdir),
    "pipe": (InvalidInput, os.mkfifo),
    "socket": (InvalidInput, bound),
    "link to nothing": (InvalidInput, lambda path: path.symlink_to("nothing")),
    "link to itself": (InvalidInput, lambda path: path.symlink_to(path.name)),
    "device": (InvalidInput, lambda path: path.symlink_to("/dev/null")),
}


@pytest.mark.parametrize("name", NO_FILES)
def test_what_is_no_file(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected, make = NO_FILES[name]
    path = Path("it")
    make(path)
    with Files() as files, pytest.raises(expected, match=r"\bit\b") as caught:
        files.add(path)
    assert type(caught.value) is expected
    assert caught.value.hint


@pytest.mark.parametrize("path", ["a.bin/b", "x" * 300, "a\0b", "\ud800"])
def test_names_that_lead_nowhere(tmp_path: Path, path: str) -> None:
    (tmp_path / "a.bin").touch()
    with Files() as files, pytest.raises(InvalidInput, match="cannot read") as caught:
        files.add(tmp_path / path)
    assert caught.value.hint


@not_root
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    (path,) = written(tmp_path, 1)
    path.chmod(0)
    with Files() as files, pytest.raises(InvalidInput, match="Permission denied") as caught:
        files.add(path)
    assert caught.value.hint
