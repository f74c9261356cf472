"""From a URL to a remote: paths and `file://`, `s3://`, `memory://`, and what plug-ins add.

A plug-in of kind `remote` is named by its scheme and is a function like those here, `(url, options) -> Remote`:

    [project.entry-points."ckstore.plugins"]
    "remote.ftp" = "my_package.remotes:connect_ftp"
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import unquote, urlsplit

from ckstore.errors import InvalidInput, nearest
from ckstore.plugins import plugins
from ckstore.remote.interface import Remote

if TYPE_CHECKING:
    from collections.abc import Callable

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://", re.ASCII)
_OTHER_NAMES = {"gcs": "gs", "azure": "az", "s3a": "s3", "s3n": "s3"}


@dataclass(frozen=True)
class Connection:
    """How to reach a remote. `timeout_s`: how long a connection may take, and a transfer may stand still.

    `connections` is how many requests may be under way at once.
    """

    timeout_s: float = 60.0
    connections: int = 10


def connect(url: str, options: Connection | None = None) -> Remote:
    """The remote at a URL in the form that `full_url` gives. It may have sent nothing yet.

    Raises `InvalidInput` for a URL that is none, for an unknown scheme, and where a package is missing; `Auth` where
    credentials are.
    """
    options = options or Connection()
    scheme = _scheme(url)
    plugin = next((plugin for plugin in plugins("remote") if plugin.name == scheme), None)
    maker = _MAKERS.get(scheme)
    if maker is None and plugin is not None:
        maker = cast("Callable[[str, Connection], Remote]", plugin.load())
    if maker is None:
        raise _unknown(scheme)
    remote = maker(url, options)
    if not isinstance(remote, Remote):
        raise InvalidInput(f"the plug-in remote.{scheme} made no Remote, but a {type(remote).__name__}")
    return remote


def full_url(text: str, folder: Path) -> str:
    """What a person wrote as the URL that is kept: a plain path, taken from `folder`, becomes `file:///...`.

    Raises `InvalidInput`, as `connect` does, for what could never be connected to.
    """
    scheme = _scheme(text)
    if scheme == "file":
        return (folder / _folder(text)).resolve().as_uri()
    if scheme == "s3":
        from ckstore.remote.s3_place import parse_s3

        return parse_s3(text).url
    if scheme not in _MAKERS and scheme not in {plugin.name for plugin in plugins("remote")}:
        raise _unknown(scheme)
    return text


def _scheme(url: str) -> str:
    match = _SCHEME.match(url)
    return match[1].lower() if match else "file"


def _folder(url: str) -> Path:
    if not _SCHEME.match(url):
        if not url:
            raise InvalidInput("a remote needs a URL", hint="write a path, or s3://BUCKET/PREFIX")
        return Path(os.path.expanduser(url))
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path or parts.query or parts.fragment:
        raise InvalidInput(f"{url} is no URL of a folder here", hint="write file:///PATH, or the path")
    return Path(unquote(parts.path))


def _directory(url: str, _: Connection) -> Remote:
    from ckstore.remote.directory import DirectoryRemote

    return DirectoryRemote(_folder(url))


def _s3(url: str, options: Connection) -> Remote:
    from ckstore.remote.s3 import S3Remote
    from ckstore.remote.s3_place import parse_s3

    return S3Remote(parse_s3(url), options.timeout_s, options.connections)


def _memory(url: str, _: Connection) -> Remote:
    from ckstore.remote.memory import MemoryRemote, memory_place

    return MemoryRemote(memory_place(url.partition("://")[2]))


_MAKERS: dict[str, Callable[[str, Connection], Remote]] = {"file": _directory, "s3": _s3, "memory": _memory}


def _unknown(scheme: str) -> InvalidInput:
    known = sorted({*_MAKERS, *(plugin.name for plugin in plugins("remote"))})
    close = _OTHER_NAMES.get(scheme)
    hint = f"did you mean {close}://?" if close in known else nearest(scheme, known)
    return InvalidInput(f"no remote is reached by {scheme}://", hint=hint or f"known are {', '.join(known)}")
