"""The code blocks of README and docs/ run as they stand."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)#:\s]+)(?:#([\w-]+))?\)")


def blocks(page: Path, language: str) -> list[str]:
    """The page's code blocks in one language."""
    return [code for found, code in _BLOCK.findall(page.read_text()) if found == language]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder with the `model.pt`, and the `runs`, that the examples take for granted."""
    torch.save({"model": {"weight": torch.randn(50, 50)}, "step": 1}, tmp_path / "model.pt")
    (tmp_path / "runs").mkdir()
    for step in (100, 200):
        torch.save({"model": {"weight": torch.randn(50, 50)}, "step": step}, tmp_path / "runs" / f"step_{step}.pt")
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_python_blocks(page: Path, folder: Path) -> None:
    code = "\n".join(blocks(page, "python"))
    for _ in range(2):  # a training script is started again
        ran = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "console")], ids=lambda page: page.name)
def test_console_blocks(page: Path, folder: Path) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    for line in "".join(blocks(page, "console")).splitlines():
        if not line.startswith("$ "):
            continue
        command, *arguments = shlex.split(line.removeprefix("$ "), comments=True)
        assert command == "ckstore", line
        program = [sys.executable, "-c", "from ckstore.cli.main import run; run()", *arguments]
        ran = subprocess.run(program, cwd=folder, capture_output=True, text=True, env=environment, check=False)
        assert ran.returncode == 0, line + ran.stderr


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
