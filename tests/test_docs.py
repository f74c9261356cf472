"""The code blocks of README and docs/ run as they stand, and the site is built of pages that all lead somewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

import pytest
import torch

from tests.commands import run_command, run_script

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SHOWN = re.compile(r"^```console\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)#:\s]+)(?:#([\w-]+))?\)")
_ID = re.compile(r"\b[0-9a-f]{12,64}\b")
_NUMBER = re.compile(r"[-+]?\d[\d.,:]*(?: (?:B|kB|MB|GB|s|min)\b)?")


def blocks(page: Path, language: str) -> list[str]:
    """The page's code blocks in one language."""
    return [code for found, code in _BLOCK.findall(page.read_text()) if found == language]


class Shown(NamedTuple):
    """Command lines, and what stands right after them as their output, if anything does."""

    lines: list[list[str]]
    output: str


def shown(page: Path) -> Iterator[Shown]:
    """The page's console blocks, each line as its arguments."""
    for code, output in _SHOWN.findall(page.read_text()):
        lines = [line.removeprefix("$ ") for line in code.splitlines() if line.startswith("$ ")]
        yield Shown([shlex.split(line, comments=True) for line in lines], output)


def masked(output: str, folder: Path) -> list[str]:
    """The words of an output, without what differs from machine to machine: numbers, ids, places."""
    for place in (str(folder), "/home/me/mine"):
        output = output.replace(place, "PLACE")
    return _NUMBER.sub("0", _ID.sub("ID", output)).split()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The `model.pt`, and the `runs`, that the examples take for granted: of three tensors one is trained."""
    torch.manual_seed(0)
    model = {"embedding": torch.randn(500, 50), "weight": torch.randn(50, 50), "bias": torch.zeros(50)}
    torch.save({"model": model, "step": 1}, tmp_path / "model.pt")
    (tmp_path / "runs").mkdir()
    for step, loss in ((100, 0.9), (200, 0.7)):
        model["weight"] = model["weight"] + 1e-3 * torch.randn(50, 50)
        torch.save({"model": model, "step": step, "loss": loss}, tmp_path / "runs" / f"step_{step}.pt")
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_python_blocks(page: Path, folder: Path) -> None:
    script = folder / "page.py"
    script.write_text("\n".join(blocks(page, "python")))
    for _ in range(2):  # a training script is started again
        ran = run_script(script, folder, os.environ)
        assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "console")], ids=lambda page: page.name)
def test_console_blocks(page: Path, folder: Path) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "CKSTORE_COMMIT_AUTHOR": "me"}
    for block in shown(page):
        printed = ""
        for command, *arguments in block.lines:
            assert command == "ckstore", arguments
            ran = run_command(arguments, folder, environment)
            assert ran.returncode == 0, (arguments, ran.stderr)
            printed += ran.stdout
        if block.output:
            assert masked(block.output, folder) == masked(printed, folder), block.lines


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in _LINK.findall(page.read_text()):
        path = page.parent / target
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", text).lower().replace(" ", "-") for text in headings]


def test_figures_are_those_that_were_measured() -> None:
    ran = subprocess.run([sys.executable, ROOT / "benchmarks/figures.py", "--check"], capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr.decode()


class _Links(HTMLParser):
    """Where a page leads, and what it loads."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.targets += [value for name, value in attrs if name in ("href", "src") and value]


@pytest.mark.skipif(importlib.util.find_spec("zensical") is None, reason="zensical is not installed")
def test_the_site_is_built_and_its_links_lead_somewhere(tmp_path: Path) -> None:
    site = tmp_path / "site"
    ran = subprocess.run([sys.executable, ROOT / "docs/build_site.py", site], capture_output=True, check=False)
    assert ran.returncode == 0, ran.stdout.decode() + ran.stderr.decode()
    built = {path.relative_to(site) for path in site.rglob("*.html")}
    pages = (path.relative_to(ROOT / "docs").with_suffix("") for path in ROOT.glob("docs/**/*.md"))
    expected = {(page.parent if page.name == "index" else page) / "index.html" for page in pages}
    assert built == {*expected, Path("404.html")}
    for page in sorted(expected):
        links = _Links()
        links.feed((site / page).read_text())
        for target in links.targets:
            url = urlsplit(target)
            if url.scheme or url.netloc or not url.path:
                continue
            path = (site / page).parent / unquote(url.path)
            assert (path / "index.html" if path.is_dir() else path).is_file(), f"{page} leads to {target}"
