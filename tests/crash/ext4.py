"""A real ext4 file system in an image file, mounted through a loop device, whose power can be cut.

The cut is the ioctl EXT4_IOC_SHUTDOWN: from then on nothing reaches the image. What was only in memory is gone at
the next mount, which recovers the file system's journal. A file system without a journal, where a name is durable only
once its folder is synced, is cut by keeping what its image holds at that moment (`copy`) and checking it.

Mounts lie in a namespace of the process that makes them, so that they and their loop devices go with it, however it
ends.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import shutil
import struct
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

SIZE_BYTES = 96 << 20
PAGE = 4096

OPTIONS = ("defaults", "defaults", "noauto_da_alloc", "nodelalloc", "data=writeback", "data=journal")
"""Ways to mount: files' blocks allotted late or at once, written before the names that lead to them or not."""

OPTIONS_WITHOUT_JOURNAL = ("defaults", "nodelalloc")

_SHUTDOWN = 0x8004587D
_FLUSH_LOG, _NO_FLUSH = 1, 2
_NEW_MOUNTS = 0x20000
_WAIT_WRITE_WAIT = 7
_MENDED = 1 | 2
_TRIES = 50


def missing() -> str | None:
    """Why there can be no such file system here; None if nothing is known to be against it."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "needs Linux on x86-64"
    if os.geteuid():
        return "needs root to mount"
    for tool in ("mkfs.ext4", "e2fsck", "mount", "umount", "cp"):
        if shutil.which(tool) is None:
            return f"needs {tool}"
    return None if Path("/dev/loop-control").exists() else "needs loop devices"


def keep_mounts_private() -> None:
    """Mounts of this process and its children are seen by no other from here on. Raises OSError."""
    if ctypes.CDLL(None, use_errno=True).unshare(_NEW_MOUNTS):
        raise OSError(ctypes.get_errno(), "unshare")
    _run("mount", "--make-rprivate", "/")


def make(image: Path, *, journal: bool = True) -> None:
    """A new, empty file system."""
    with image.open("wb") as file:
        file.truncate(SIZE_BYTES)
    features = "has_journal" if journal else "^has_journal"
    _run("mkfs.ext4", "-q", "-F", "-b", str(PAGE), "-O", features, "-E", "lazy_itable_init=1", str(image))


def copy(image: Path, to: Path) -> None:
    """What has reached the disk, if the image is mounted. What is only in memory is left out."""
    _run("cp", "--sparse=always", str(image), str(to))


@contextmanager
def mounted(image: Path, folder: Path, options: str = "defaults") -> Iterator[Path]:
    """The file system of `image` at `folder`, which is made. Raises CalledProcessError where it cannot be mounted."""
    folder.mkdir(exist_ok=True)
    _run("mount", "-t", "ext4", "-o", f"loop,{options}", str(image), str(folder))
    try:
        yield folder
    finally:
        _unmount(folder)


def cut_power(folder: Path, *, flushed: bool) -> None:
    """Nothing reaches the disk any more; `flushed`: but the file system's journal as it now is, just before."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _FLUSH_LOG if flushed else _NO_FLUSH))
    finally:
        os.close(descriptor)


def check(image: Path) -> None:
    """Mend an unmounted file system after a cut, as the start of a machine does for one without a journal."""
    done = subprocess.run(["e2fsck", "-fy", str(image)], capture_output=True, text=True, check=False)
    if done.returncode & ~_MENDED:
        done.check_returncode()


def write_back_some(folder: Path, rng: random.Random) -> None:
    """Bring random pages of random files under `folder` to the disk, as the kernel may at any time."""
    call = ctypes.CDLL(None, use_errno=True).sync_file_range
    call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        pages = -(-path.stat().st_size // PAGE)
        if not pages or rng.random() < 0.4:
            continue
        descriptor = os.open(path, os.O_RDONLY)
        try:
            for _ in range(rng.randint(1, 3)):
                first = rng.randrange(pages)
                length = rng.randint(1, max(1, (pages - first) // rng.choice((1, 4, 16))))
                if call(descriptor, first * PAGE, length * PAGE, _WAIT_WRITE_WAIT):
                    raise OSError(ctypes.get_errno(), f"sync_file_range of {path}")
        finally:
            os.close(descriptor)


def _unmount(folder: Path) -> None:
    """At once, after a while, or as soon as nobody uses it."""
    for _ in range(_TRIES):
        if subprocess.run(["umount", str(folder)], capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.02)
    _run("umount", "-l", str(folder))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
