"""demo: a real training run that is killed and goes on, and what the repository made of it."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ckstore.api.environment import default_cache, now, settings_layers
from ckstore.cli.context import JsonFlag, Settings, emit, settings
from ckstore.cli.graph_lines import graph_lines
from ckstore.cli.progress_line import size
from ckstore.cli.text import SHORT, oneline
from ckstore.errors import InvalidInput, SaveFailed
from ckstore.porcelain.init import init
from ckstore.porcelain.log import LogOptions, log
from ckstore.porcelain.verify import verify
from ckstore.repository import Repository, open_repository

if TYPE_CHECKING:
    from collections.abc import Iterator

_STEPS = 60
_EVERY = 10
_KILL_AFTER = 3


@dataclass(frozen=True)
class DemoResult:
    """What the demo showed: bytes given to commit and bytes on disk, and whether everything came back exactly."""

    folder: Path
    commits: int
    raw_bytes: int
    stored_bytes: int
    resumed_at_step: int
    same_as_uninterrupted: bool
    exact_checkout: bool
    problems: int


def demo(
    context: typer.Context,
    folder: Annotated[
        Path | None, typer.Argument(help="Keep the repository here (default: a temporary folder).")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Train a small transformer, kill it, resume it, and look at what was stored. Takes under a minute.

    Example: ckstore demo my-demo
    """
    told = settings(context, json_flag=json)
    if importlib.util.find_spec("torch") is None:
        raise InvalidInput("the demo trains with PyTorch, which is not installed", hint='pip install "ckstore[demo]"')
    if folder is not None:
        if folder.exists() and any(folder.iterdir()):
            raise InvalidInput(f"{folder} is not empty", hint="name a new folder")
        result = _Demo(told, folder).run()
    else:
        with tempfile.TemporaryDirectory(prefix="ckstore-demo-") as scratch:
            result = _Demo(told, Path(scratch)).run()
    emit(told, result, "")
    if not (result.same_as_uninterrupted and result.exact_checkout) or result.problems:
        raise SaveFailed("the demo did not come back exactly", hint="please report this")


class _Demo:
    def __init__(self, told: Settings, folder: Path) -> None:
        self._told = told
        self._folder = folder
        self._raw = 0
        self._exact = True

    def run(self) -> DemoResult:
        init(self._folder)
        self._say(f"Training a transformer on the text of Python's standard library ({_STEPS} steps).")
        for told in self._train("--branch", "main", kill_after=_KILL_AFTER):
            self._committed(told)
        with open_repository(self._folder, default_cache(), layers=settings_layers()) as repository:
            resumed_at = repository.resolve("main", now()[0])[1].step or 0
        self._say(f"Killed with SIGKILL. Started again: it goes on from step {resumed_at}.")
        for told in self._train("--branch", "main"):
            self._committed(told)
        self._say(
            "Once more from the start, never interrupted, on a branch of its own: what is there already costs nothing."
        )
        for told in self._train("--branch", "uninterrupted"):
            self._committed(told)
        self._say("And a branch from two commits back, with a tenth of the learning rate.")
        for told in self._train("--branch", "low-lr", "--start", "main~2", "--lr", "1e-4"):
            self._committed(told)
        with open_repository(self._folder, default_cache(), layers=settings_layers()) as repository:
            return self._show(repository, resumed_at)

    def _train(self, *arguments: str, kill_after: int = 0) -> Iterator[dict[str, Any]]:
        """Run the training script; kill it -9 after so many commits (0: never)."""
        command = [sys.executable, "-m", "ckstore.demo.train", str(self._folder)]
        command += ["--steps", str(_STEPS), "--every", str(_EVERY), *arguments]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for commits, line in enumerate(process.stdout, 1):
                yield json.loads(line)
                if commits == kill_after:
                    process.kill()
        if process.returncode != (-signal.SIGKILL if kill_after else 0):
            raise SaveFailed(f"the training script ended with code {process.returncode}", hint="see what it printed")

    def _committed(self, told: dict[str, Any]) -> None:
        if "exact" in told:
            self._exact = self._exact and told["exact"]
            return
        self._raw += told["raw"]
        self._say(
            f"  step {told['step']:3}  loss {told['loss']:.3f}  committed {told['id'][:SHORT]} "
            f"(held up for {1000 * told['seconds']:.0f} ms): {size(told['raw'])} given, {size(told['stored'])} stored"
        )

    def _show(self, repository: Repository, resumed_at: int) -> DemoResult:
        commits = log(repository, LogOptions(now()[0], all=True))
        self._say("\n$ ckstore log --graph --oneline --all")
        for columns, commit in graph_lines(commits):
            self._say(f"{columns} {oneline(commit, 'main') if commit else ''}".rstrip())
        checked = verify(repository, read_data=True)
        tips = [repository.resolve(branch, now()[0])[1] for branch in ("main", "uninterrupted")]
        same = tips[0].components == tips[1].components
        stored = sum(path.stat().st_size for path in (self._folder / ".ckstore").rglob("*") if path.suffix in _TRUTH)
        result = DemoResult(
            self._folder, len(commits), self._raw, stored, resumed_at, same, self._exact, len(checked.findings)
        )
        self._say(f"\n{len(commits)} checkpoints: {size(self._raw)} given, {size(stored)} on disk.")
        self._say(f"Killed and resumed equals never interrupted, bit for bit: {_yes(same)}")
        self._say(f"What was loaded back equals the live model and optimizer, bit for bit: {_yes(self._exact)}")
        self._say(f"Every stored byte read and hashed: {_yes(checked.ok)}")
        return result

    def _say(self, text: str) -> None:
        if not (self._told.json or self._told.quiet):
            typer.echo(text)


_TRUTH = frozenset({".pack", ".journal"})
"""Packs and journal are the truth; the index is a cache and not counted."""


def _yes(fact: bool) -> str:
    return "yes" if fact else "NO"
