"""The `ckstore` command and scripts as processes of their own, forked from one that has imported what they need.

What it costs to start, what it imports, and how a terminal or a locale is met is not to be seen here: tests of that
start an interpreter.
"""

from __future__ import annotations

import json
import os
import pkgutil
import runpy
import sys
import time
from pathlib import Path
from subprocess import CompletedProcess
from typing import TYPE_CHECKING

import numpy as np

import ckstore.cli
import ckstore.porcelain
from tests.nursery import bear

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COMMAND = (
    "numpy",
    "tests.commands",
    *(
        f"{package.__name__}.{module.name}"
        for package in (ckstore.cli, ckstore.porcelain)
        for module in pkgutil.iter_modules(package.__path__)
    ),
)
SCRIPT = ("torch", "torch.utils.data", "ckstore", "tests.commands")


def run_command(
    arguments: Sequence[object], folder: Path, environment: Mapping[str, str], *, mixed: bool = False
) -> CompletedProcess[str]:
    """`ckstore` with these arguments, in a folder; `mixed`: what goes to stderr stands in stdout, in its place."""
    return _run("tests.commands:command", arguments, folder, environment, COMMAND, mixed=mixed)


def run_script(path: Path, folder: Path, environment: Mapping[str, str]) -> CompletedProcess[str]:
    """`python PATH` in a folder."""
    return _run("tests.commands:script", [path], folder, environment, SCRIPT, mixed=False)


def run_code(code: str, *arguments: object) -> CompletedProcess[str]:
    """`python -c CODE` with these arguments, here."""
    return _run("tests.commands:code", [code, *arguments], Path.cwd(), os.environ, SCRIPT, mixed=False)


def _run(
    work: str,
    arguments: Sequence[object],
    folder: Path,
    environment: Mapping[str, str],
    modules: Sequence[str],
    *,
    mixed: bool,
) -> CompletedProcess[str]:
    printed, errors = os.memfd_create("stdout"), os.memfd_create("stderr")
    given = [printed, printed if mixed else errors]
    status = bear(work, [folder, json.dumps(dict(environment)), *arguments], given, modules).ended()
    return CompletedProcess([str(word) for word in arguments], status, _text(printed), _text(errors))


def _text(descriptor: int) -> str:
    with open(descriptor, "rb") as file:
        file.seek(0)
        return file.read().decode()


def _enter(words: Sequence[str], descriptors: Sequence[int]) -> list[str]:
    """Be the process that was asked for; its arguments."""
    folder, environment, *arguments = words
    os.environ.clear()
    os.environ.update(json.loads(environment))
    time.tzset()
    os.chdir(folder)
    for target, descriptor in enumerate(descriptors, 1):
        os.dup2(descriptor, target)
    for descriptor in set(descriptors):
        os.close(descriptor)
    _draw_anew()
    return arguments


def _draw_anew() -> None:
    """Random numbers are others in each process, as where an interpreter starts; `random` sees to it itself."""
    np.random.seed()
    if "torch" in sys.modules:
        sys.modules["torch"].seed()


def command(words: Sequence[str], descriptors: Sequence[int]) -> None:
    """The child that is `ckstore`."""
    from ckstore.cli.main import run

    sys.argv = ["ckstore", *_enter(words, descriptors)]
    run()


def script(words: Sequence[str], descriptors: Sequence[int]) -> None:
    """The child that is `python`."""
    sys.argv = _enter(words, descriptors)
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")


def code(words: Sequence[str], descriptors: Sequence[int]) -> None:
    """The child that is `python -c`."""
    text, *arguments = _enter(words, descriptors)
    sys.argv = ["-c", *arguments]
    exec(compile(text, "<string>", "exec"), {"__name__": "__main__"})
