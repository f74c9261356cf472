"""Every command on a real repository, as a person sees it: transcripts at 80 and 200 columns.

`CKSTORE_GOLDEN=write python -m pytest tests/test_golden.py` writes them anew.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ckstore.cli.group import TASKS
from tests.commands import run_command

GOLDEN = Path(__file__).parent / "golden"
NOW = 1_900_000_000
WIDTHS = (80, 200)

SCRIPT = """
ckstore init runs
ckstore -C runs status
ckstore -C runs commit first.pt -m "warmed up" --step 100 --metric val/loss=2.5 --metric acc=0.25 --tag v1
ckstore -C runs commit second.pt -m "a message as long as people write" --step 200 --metric val/loss=1.5
ckstore -C runs commit second.pt
ckstore -C runs commit second.safetensors -m "another format" --step 300 --metric val/loss=1.75
ckstore -C runs commit folder -m "a folder" --branch folders
ckstore -C runs config set metrics.val/loss min
ckstore -C runs config list --origin
ckstore -C runs config get storage.preset
ckstore -C runs config set storage.preset best
ckstore -C runs status
ckstore -C runs log -n 2
ckstore -C runs log --oneline --graph --all
ckstore -C runs list
ckstore -C runs list --where "val/loss<2" --sort val/loss --columns id,step,val/loss,message
ckstore -C runs list --sort los
ckstore -C runs show v1 --tensors
ckstore -C runs show HEAD --stat
ckstore -C runs diff v1 HEAD~1 --stat
ckstore -C runs diff v1 v1
ckstore -C runs diverge main folders
ckstore -C runs checkout best:val/loss -o best.pt
ckstore -C runs checkout v1 -o v1.safetensors --only model
ckstore -C runs checkout folders -o copy
ckstore -C runs checkout v1 -o best.pt
ckstore -C runs export v1 -o out --format huggingface --only model
ckstore -C runs checkout -b low-lr v1
ckstore -C runs branch
ckstore -C runs branch --delete low-lr
ckstore -C runs checkout mian
ckstore -C runs checkout main
ckstore -C runs branch --delete low-lr --dry-run
ckstore -C runs branch --delete low-lr
ckstore -C runs tag best best:val/loss
ckstore -C runs tag
ckstore -C runs reflog -n 6
ckstore -C runs undo --dry-run
ckstore -C runs undo
ckstore -C runs du
ckstore -C runs verify --read-data
ckstore -C runs verify --subset 50%
ckstore -C runs repair
ckstore -C runs validate
ckstore -C runs validate v1 --against HEAD
ckstore -C runs validate v1 --against v1 --only "model.layer*"
ckstore -C runs validate v1 --only "model.layr*"
ckstore -C runs validate v1 --model nosuch.module:build
ckstore -C runs doctor
ckstore scan files
ckstore -C runs import files --pattern "step_*.pt" --branch old --dry-run
ckstore -C runs import files --pattern "step_*.pt" --branch old
ckstore -C runs import files --pattern "step_*.pt" --branch old
ckstore -C runs import files --branch old --replace
ckstore -C nowhere log
ckstore -C runs show best:acc
ckstore -C runs show nosuch
ckstore -C runs comit first.pt
ckstore -C runs commit absent.pt
ckstore -C runs commit first.pt --metric loss
ckstore -C runs pin
ckstore -C runs pin best:val/loss
ckstore -C runs pin
ckstore -C runs unpin v1
ckstore -C runs unpin best:val/loss
ckstore -C runs gc
ckstore -C runs gc --keep-last 1 --dry-run
ckstore -C runs gc --keep-last 1 --keep optimizer:last=1 --branch main
ckstore -C runs log --oneline
ckstore -C runs show best:val/loss
ckstore -C runs checkout main~1 -o gone.pt
ckstore -C runs undo
ckstore -C runs gc --keep-last 0
ckstore -C runs gc --keep-best 1:los:min
ckstore -C runs gc --keep-last 1 --repack --grace 0
ckstore -C runs du
ckstore -C runs remote list
ckstore -C runs push
ckstore -C runs remote add origin store --no-test
ckstore -C runs remote add origin elsewhere
ckstore -C runs remote add backup nowhere/at/all
ckstore -C runs remote add cloud s3://me:secret@bucket
ckstore -C runs remote list
ckstore -C runs push --dry-run
ckstore -C runs push --all
ckstore -C runs push
ckstore -C runs push orgin
ckstore clone store laptop --only model
ckstore clone store laptop
ckstore -C laptop commit second.pt -m "on the laptop" --branch folders
ckstore -C laptop push origin folders
ckstore -C laptop status
ckstore -C runs fetch
ckstore -C runs commit first.pt -m "here meanwhile" --branch folders
ckstore -C runs pull origin folders
ckstore -C runs push origin folders
ckstore -C runs pull origin folders --force
ckstore -C runs pull
ckstore -C runs remote show
ckstore -C runs remote gc --dry-run
ckstore -C runs remote remove origin
ckstore -C runs migrate
ckstore completion tcsh
ckstore --version
ckstore --help
"""

_SIZE = re.compile(r"\d+(?:\.\d)? (?:kB|MB|GB|TB|B)\b")
_CHANGING = (
    (re.compile(r"(?<=Left on the disk: ).*"), "<space>"),
    (re.compile(r"(?<=About )\d+ \w+|(?<=takes about )\d+ \w+"), "<time>"),
    (re.compile(r"index \d+\.\d kB|\d+\.\d kB index"), "<index>"),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with small checkpoints, the same every time."""
    torch.manual_seed(0)
    model = {"layer.weight": torch.randn(40, 50), "layer.bias": torch.zeros(40), "tied": torch.ones(3)}
    optimizer = {
        "state": {0: {"step": torch.tensor(100.0), "exp_avg": torch.randn(40, 50)}},
        "param_groups": [{"lr": 0.1}],
    }
    state = {"model": model, "optimizer": optimizer, "config": {"lr": 0.1, "name": "tiny"}, "step": 100}
    torch.save(state, tmp_path / "first.pt")
    model["layer.weight"] += 0.01 * torch.randn(40, 50)
    model["new"] = torch.arange(5.0)
    del model["tied"]
    state["config"] = {"lr": 0.01, "name": "tiny"}
    torch.save(state, tmp_path / "second.pt")
    save_file(model, tmp_path / "second.safetensors")
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    save_file(model, tmp_path / "folder" / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "folder" / "config.json").write_text('{"layers": 1}')
    (tmp_path / "folder" / "sub" / "notes.txt").write_text("kept")
    (tmp_path / "files").mkdir()
    for step in (1, 2, 10):
        torch.save(
            {"model": {"w": torch.full((100, 100), float(step))}, "loss": 1 / step},
            tmp_path / "files" / f"step_{step}.pt",
        )
    (tmp_path / "files" / "step_11.pt").write_bytes((tmp_path / "first.pt").read_bytes()[:-100])
    for number, path in enumerate(sorted(tmp_path.rglob("*"), reverse=True)):
        path.chmod(0o755 if path.is_dir() else 0o644)
        os.utime(path, (NOW - 3600 - number, NOW - 3600 - number))
    return tmp_path


def transcript(folder: Path, width: int) -> str:
    """What the commands print, with what differs from one machine to the next made alike."""
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache"),
        "XDG_CONFIG_HOME": str(folder / "config"), "COLUMNS": str(width), "NO_COLOR": "1", "TERM": "xterm",
        "CKSTORE_COMMIT_AUTHOR": "ada", "LC_ALL": "C.UTF-8",
    }  # fmt: skip
    lines: list[str] = []
    for number, line in enumerate(SCRIPT.strip().splitlines()):
        environment["CKSTORE_NOW"] = str(NOW + 60 * number)
        ran = run_command(shlex.split(line)[1:], folder, environment, mixed=True)
        lines += [f"$ {line}", *ran.stdout.splitlines(), *([f"(exit {ran.returncode})"] if ran.returncode else []), ""]
        if "doctor" in line:  # what is installed differs
            del lines[lines.index(f"$ {line}") + 1 : -1]
    text = "\n".join(lines).replace(str(folder), "<folder>")
    for pattern, name in _CHANGING:
        text = pattern.sub(name, text)
    return _SIZE.sub(lambda match: re.sub(r"\d", "9", match[0]), text) + "\n"


@pytest.mark.parametrize("width", WIDTHS)
def test_transcripts(folder: Path, width: int) -> None:
    path = GOLDEN / f"{width}.txt"
    text = transcript(folder, width)
    if os.environ.get("CKSTORE_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    wanted = path.read_text()
    assert text == wanted, "\n".join(difflib.unified_diff(wanted.splitlines(), text.splitlines(), lineterm=""))


def test_every_command_is_in_the_transcripts() -> None:
    used = {word for line in SCRIPT.splitlines() for word in line.split()}
    assert {listed.name for task in TASKS.values() for listed in task} - {"demo"} <= used


@pytest.mark.parametrize("width", WIDTHS)
def test_tables_fit(width: int) -> None:
    """What is a table is cut to the terminal; sentences may wrap."""
    inside = False
    for line in (GOLDEN / f"{width}.txt").read_text().splitlines():
        if line.startswith("$ "):
            inside = line.split()[1:2] != ["--help"] and " list" in line
        elif inside and not line.startswith(("  Fix", "error")):
            assert len(line) <= width, line
