"""A save looks for dead ones in `tmp/` while another save, alive until then, ends and takes its folder away."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from tests.crash.machine import Machine

if TYPE_CHECKING:
    from pathlib import Path


def test_a_save_that_ends_while_another_sweeps(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "disk", seed=1)
    with machine.process() as process:
        process.save(0)
    other = machine.folder / ".ckstore" / "tmp" / "00ff00ff00ff00ff"
    other.mkdir()
    ended = []

    def end(call: str, path: str) -> None:
        if path.startswith(str(other)):
            ended.append(call)
            shutil.rmtree(other, ignore_errors=True)

    with machine.process(end) as process:
        process.save(1)
    assert ended
    assert not other.exists()
