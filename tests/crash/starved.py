"""A save and a gc under a limit: `python -m tests.crash.starved FOLDER LIMIT VALUE`.

Prints a JSON line for each of open, save, gc: what it gave (an id), or the error's name. Three descriptors are open as
it begins; RLIMIT_AS counts from the address space in use.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from ckstore.errors import CkstoreError
from ckstore.porcelain.init import init
from ckstore.repository import open_repository
from tests.crash.states import BRANCH, Label, collect, save

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckstore.repository import Repository

LABEL = Label("chain", 50)


def say(what: str, do: Callable[[], object]) -> object:
    """Do it, and say what came of it."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        result = None
        line: dict[str, object] = {}
        try:
            result = do()
            line = {"id": result} if isinstance(result, str) else {"done": True}
        except CkstoreError as error:
            line = {"error": type(error).__name__, "what": error.what, "hint": error.hint}
        except MemoryError:
            line = {"error": "MemoryError"}
    print(json.dumps({"do": what, **line, "warned": [str(one.message) for one in said]}), flush=True)
    return result


def warm_up(folder: Path) -> None:
    """All that is imported on the way is: modules are no matter of limits."""
    init(folder, BRANCH)
    with open_repository(folder, folder.with_name("cache"), threads=1) as repository:
        for seed in range(3):
            save(repository, Label(LABEL.shape, seed))
        collect(repository)


def main() -> None:
    folder, name, value = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    with tempfile.TemporaryDirectory() as scratch:
        warm_up(Path(scratch) / "repo")
    limit: int = getattr(resource, name)
    if name == "RLIMIT_NOFILE":
        os.closerange(3, 1 << 16)
    else:
        value += int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(limit, (value, value))
    opened = say("open", lambda: open_repository(folder, folder.with_name("cache"), threads=1))
    if opened is not None:
        repository: Repository = opened  # type: ignore[assignment]
        say("save", lambda: save(repository, LABEL))
        say("gc", lambda: collect(repository))


if __name__ == "__main__":
    main()
