"""Bits flipped, files cut, lengthened, zeroed, doubled, lost: right bytes or a typed error, never a signal.

What is damaged is noticed (packs and journal) or of no consequence: with packs and journal sound, all loads, and an
index made anew equals the one there was. `benchmarks/soak/flips.py` does more of it.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from ckstore.storage.layout import FOLDER
from tests.crash.damage import LOSE, Damage, files, flips, prepare, steps
from tests.crash.examiner import examined

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

SEED = 20260
FLIPS, STEPS, OF_THE_INDEX = 2000, 260, 150


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damage") / "repo"
    prepare(folder)
    return folder


def test_flipped_bits(template: Path, count: Callable[[str, int], None], scale: int) -> None:
    chosen = list(flips(files(template / FOLDER), FLIPS * scale, random.Random(SEED)))
    _check(template, chosen)
    count("flipped bits", len(chosen))


def test_steps(template: Path, count: Callable[[str, int], None], scale: int) -> None:
    """A sample, and each file lost."""
    every = steps(files(template / FOLDER))
    chosen = random.Random(SEED).sample(every, min(STEPS * scale, len(every)))
    chosen += [one for one in every if one.how == LOSE and one not in chosen]
    _check(template, chosen)
    count("files cut, lengthened, zeroed, doubled or lost", len(chosen))


def test_the_index(template: Path, count: Callable[[str, int], None], scale: int) -> None:
    """Made anew it is what it was, and all there is loads, whatever became of it."""
    sizes = {name: size for name, size in files(template / FOLDER).items() if name.startswith("index/")}
    rng = random.Random(SEED)
    every = steps(sizes)
    chosen = rng.sample([one for one in every if one.file == "index/data.mdb"], min(OF_THE_INDEX * scale, len(every)))
    chosen += [one for one in every if one.how == LOSE]
    _check(template, chosen)
    count("damaged indexes", len(chosen))


def test_who_examines_sees_damage(template: Path) -> None:
    """A pack that is lost is noticed, and what is read from it fails."""
    pack = max((size, name) for name, size in files(template / FOLDER).items() if name.startswith("packs/"))[1]
    (said,) = examined(template, [Damage(pack, LOSE, 0)])
    assert said["found"]
    assert "load: Integrity" in said["errors"]


def _check(template: Path, chosen: Sequence[Damage]) -> None:
    said = examined(template, chosen)
    assert len(said) == len(chosen)
    wrong = [f"{one['damage']}: {one['wrong']}" for one in said if one["wrong"]]
    assert not wrong, "\n".join(wrong)
    assert any(one["found"] for one in said) or all(not one.is_of_data for one in chosen)
