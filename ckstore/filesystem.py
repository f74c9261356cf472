"""What kind of file system a path is on: local disks carry the index, network mounts only packs and journal."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ckstore.errors import InvalidInput

_NETWORK = frozenset(
    {"nfs", "nfs4", "lustre", "gpfs", "cifs", "smb3", "smbfs", "ceph", "beegfs", "9p", "afs", "glusterfs"}
    | {"pvfs2", "orangefs", "wekafs", "panfs"}
)
_MOUNTS = Path("/proc/self/mountinfo")
_LOCKLESS = frozenset({"nolock", "localflock", "nobrl", "local_lock=all", "local_lock=posix"})


@dataclass(frozen=True)
class Mount:
    """A mount point, its file system type and its options."""

    point: str
    kind: str
    options: frozenset[str]

    @property
    def is_network(self) -> bool:
        return self.kind in _NETWORK or self.kind.startswith("fuse.")

    def check_locks(self) -> None:
        """Raise `InvalidInput` where locks of this mount do not reach other machines."""
        bad = self.options & _LOCKLESS if self.is_network else frozenset()
        if bad:
            raise InvalidInput(
                f"{self.point} is mounted with {', '.join(sorted(bad))}: its locks hold on one machine only",
                hint="remount it with working locks, or keep the repository elsewhere",
            )


def mount_of(path: Path, table: str | None = None) -> Mount:
    """The mount `path` lies on; `table` is the text of a mountinfo file (the running system's by default)."""
    if table is None:
        try:
            table = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return Mount("/", "unknown", frozenset())
    place = os.path.realpath(path)
    best = Mount("/", "unknown", frozenset())
    for line in table.splitlines():
        fields, _, source = line.partition(" - ")
        parts, tail = fields.split(), source.split()
        if len(parts) < 6 or len(tail) < 3:
            continue
        point = parts[4].replace("\\040", " ").replace("\\134", "\\")
        inside = place == point or place.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best.point):
            best = Mount(point, tail[0], frozenset(parts[5].split(",")) | frozenset(tail[2].split(",")))
    return best
