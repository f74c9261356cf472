"""kill -9 of a process that saves tensors through `ckstore.open`, at random moments; read back by the same API."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch

import ckstore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ROUNDS = 3

WRITER = """
import json, sys
from itertools import count
import torch, ckstore

repo = ckstore.open(sys.argv[1], cache=sys.argv[2], threads=2)
for step in count(int(sys.argv[3])):
    generator = torch.Generator().manual_seed(step)
    model = {"weight": torch.randn(64, 1024, generator=generator), "half": torch.ones(300).half() * step}
    state = {"model": model, "rng": torch.get_rng_state(), "step": step, "losses": [step / 3, float("nan")]}
    result = repo.commit(state, step=step, metrics={"loss": 1 / (step + 1)})
    print(json.dumps([result.id, step]), flush=True)
"""


def test_tensors_survive(tmp_path: Path, count: Callable[[str, int], None], scale: int) -> None:
    rng = random.Random(7)
    acknowledged: dict[str, int] = {}
    where = [str(tmp_path / "repo"), str(tmp_path / "cache")]
    for number in range(ROUNDS * scale):
        command = [sys.executable, "-B", "-c", WRITER, *where, str(1000 * number)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            first = writer.stdout.readline()
            with pytest.raises(subprocess.TimeoutExpired):
                writer.wait(rng.uniform(0, 0.15))
            writer.kill()
            lines = [first, *writer.stdout.read().splitlines(keepends=True)]
        for line in lines:
            if line.endswith(b"\n"):
                id, step = json.loads(line)
                acknowledged[id] = step
    with ckstore.open(where[0], cache=where[1], create=False) as repo:
        history = repo.log()
        assert [info.parents for info in history] == [*((info.id,) for info in history[1:]), ()]
        assert acknowledged.keys() <= {info.id for info in history}
        for info in history:
            assert info.step is not None
            assert acknowledged.get(info.id, info.step) == info.step
            _check(repo[info.id].load(), info.step)
        assert repo.verify(read_data=True).ok
    count("random kills", ROUNDS * scale)
    count("commits acknowledged before a random kill", len(acknowledged))


def _check(state: dict[str, Any], step: int) -> None:
    weight = torch.randn(64, 1024, generator=torch.Generator().manual_seed(step))
    assert torch.equal(state["model"]["weight"], weight)
    assert torch.equal(state["model"]["half"], torch.ones(300).half() * step)
    assert state["step"] == step
    assert state["losses"][0] == step / 3
