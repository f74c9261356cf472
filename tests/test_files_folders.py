"""Folders as training libraries write them, committed: every file comes back, and its tensors are those of the state.

Each library runs in a process of its own: tests/folders holds the scripts.
"""

from __future__ import annotations

import os
import pickle
import random
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint import state_dict_saver
from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

from ckstore.errors import Format
from ckstore.files.assemble import assemble
from ckstore.objects.commit import FILES
from ckstore.objects.reader import read_tree
from ckstore.objects.tree import File, Folder, Tensor, Whole, split_ids, walk
from tests.file_values import Bomb, mutated

if TYPE_CHECKING:
    from collections.abc import Callable

    import ckstore
    from ckstore.objects.tree import Tree

ROOT = Path(__file__).parents[1]

LIBRARIES = {
    "dcp_ranks": "torch",
    "lightning_checkpoint": "pytorch_lightning",
    "transformers_trainer": "transformers",
    "accelerate_state": "accelerate",
}
"""What each script needs."""

SETTINGS = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}

MUTATIONS = 300

PLACE = re.compile("[0-9]+(,[0-9]+)*")
"""Where a part of a tensor begins."""

State = dict[str, Any]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder that a script writes; each runs once."""
    folders: dict[str, Path] = {}

    def run(script: str) -> Path:
        pytest.importorskip(LIBRARIES[script])
        if script not in folders:
            folder = tmp_path_factory.mktemp(script) / "out"
            command = [sys.executable, "-W", "ignore", "-m", f"tests.folders.{script}", str(folder)]
            done = subprocess.run(
                command, cwd=ROOT, env=os.environ | SETTINGS, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr[-3000:]
            folders[script] = folder
        return folders[script]

    return run


def trees(repo: ckstore.Repo, revision: str) -> dict[str, Tree]:
    """The trees of a commit, by component."""
    repository = repo._repository
    _, commit = repository.resolve(revision, 0)
    return {entry.name: read_tree(repository.store.objects, entry.tree) for entry in commit.components}


def assert_comes_back(repo: ckstore.Repo, revision: str, folder: Path) -> None:
    """Every file below `folder`, and nothing else, is in the commit: bytes, mode and time."""
    found = trees(repo, revision)
    entries = {node.entry.key: node.entry.value for node in walk(found[FILES].entries) if node.ordinal}
    paths = {str(path.relative_to(folder)): path for path in [folder, *folder.rglob("*")]}
    assert entries.keys() == paths.keys()
    for name, path in paths.items():
        value, about = entries[name], path.stat()
        assert isinstance(value, Folder if path.is_dir() else File)
        assert (value.mode, value.mtime_ns) == (about.st_mode & 0o7777, about.st_mtime_ns), name
        if isinstance(value, File):
            views = assemble(value, found[FILES], found, repo._repository.store.objects)
            assert b"".join(map(bytes, views)) == path.read_bytes(), name


def tensor_chunks(repo: ckstore.Repo, revision: str) -> dict[bytes, int]:
    """The chunks that hold a commit's tensors, with their lengths."""
    chunks: dict[bytes, int] = {}
    for name, tree in trees(repo, revision).items():
        spans = [(slab.length, slab.ids) for slab in tree.slabs]
        values = [entry.value for entry in tree.entries if name != FILES]
        spans += [(v.data.length, v.data.ids) for v in values if isinstance(v, Tensor) and isinstance(v.data, Whole)]
        for length, ids in spans:
            for number, id in enumerate(split_ids(ids)):
                chunks[id] = min(tree.chunk_size, length - number * tree.chunk_size)
    return chunks


def shared(repo: ckstore.Repo, first: str, second: str) -> float:
    """How much of the second commit's tensors is in the chunks of the first's."""
    known, all = tensor_chunks(repo, first), tensor_chunks(repo, second)
    assert sum(all.values()) > 1_000_000
    return sum(length for id, length in all.items() if id in known) / sum(all.values())


def assert_equal(left: Any, right: Any) -> None:
    """Same values in dicts of any order; tensors bit for bit."""
    if isinstance(left, torch.Tensor):
        assert (left.dtype, left.shape) == (right.dtype, right.shape)
        assert left.contiguous().numpy().tobytes() == right.contiguous().numpy().tobytes()
    elif isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_equal(left[key], right[key])
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_equal(one, other)
    else:
        assert left == right


@pytest.mark.parametrize("script", LIBRARIES)
def test_every_file_comes_back(repo: ckstore.Repo, made: Callable[[str], Path], script: str) -> None:
    folder = made(script)
    result = repo.commit_files(folder)
    assert_comes_back(repo, result.id, folder)
    assert repo.verify(read_data=True).ok
    again = repo.commit_files(folder)
    assert again.new_objects == 1  # the commit itself


# torch.distributed.checkpoint


def loaded_by_torch(folder: Path) -> State:
    """The state as torch reads it from the folder: whole tensors."""
    state: State = {}
    planner = _EmptyStateDictLoadPlanner()  # type: ignore[no-untyped-call]
    _load_state_dict(state, storage_reader=FileSystemReader(folder), planner=planner, no_dist=True)
    return state


def put_together(value: Any) -> Any:
    """A state with the parts of each tensor, which are cut along one dimension, made one."""
    if isinstance(value, list):
        return [put_together(item) for item in value]
    if not isinstance(value, dict):
        return value
    if not value or not all(PLACE.fullmatch(key) for key in value):
        return {key: put_together(item) for key, item in value.items()}
    parts = {tuple(map(int, key.split(","))): part for key, part in value.items()}
    places = sorted(parts)
    return torch.cat([parts[place] for place in places], next(dim for dim, at in enumerate(places[-1]) if at))


def test_what_two_ranks_saved(repo: ckstore.Repo, made: Callable[[str], Path]) -> None:
    folder = made("dcp_ranks")
    assert sorted(path.name for path in folder.iterdir()) == [".metadata", "__0_0.distcp", "__1_0.distcp"]
    checkpoint = repo[repo.commit_files(folder).id]
    assert sorted(checkpoint.keys()) == [FILES, "columns", "model", "optimizer", "rank", "replicated", "step"]
    state = checkpoint.load()
    assert list(state["model"]["0.weight"]) == ["0,0", "51,0"]
    assert list(state["model"]["0.bias"]) == ["0", "51"]
    assert list(state["columns"]) == ["0,0", "0,15"]
    assert state["model"]["2.weight"].shape == (1, 101)  # one rank had nothing of it
    assert_equal(state["rank"].pop("0"), torch.zeros(3))
    assert_equal(state["rank"].pop("1"), torch.ones(3))
    expected = loaded_by_torch(folder)
    expected["rank"].clear()
    assert_equal(put_together(state), expected)
    assert_equal(checkpoint["model"]["0.weight"]["51,0"][0:3], expected["model"]["0.weight"][51:54])


def single(folder: Path) -> State:
    """A state saved by one process, its optimizer's too."""
    torch.manual_seed(4)
    model = torch.nn.Sequential(torch.nn.Linear(700, 300), torch.nn.BatchNorm1d(300), torch.nn.Linear(300, 3))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(4, 700)).sum().backward()
    optimizer.step()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 1, "rng": torch.get_rng_state()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is only one process
        state_dict_saver.save(state, checkpoint_id=folder, no_dist=True)
    return state


def test_one_process_shares_with_the_state_in_memory(repo: ckstore.Repo, tmp_path: Path) -> None:
    folder = tmp_path / "dcp"
    state = single(folder)
    first = repo.commit_files(folder)
    assert_comes_back(repo, first.id, folder)
    second = repo.commit(state)
    assert shared(repo, first.id, second.id) >= 0.99
    loaded = repo[first.id].load()
    assert_equal(loaded, loaded_by_torch(folder))
    assert_equal(loaded["model"], dict(state["model"]))
    assert_equal(loaded["optimizer"]["param_groups"], state["optimizer"]["param_groups"])
    assert loaded["step"] == 1


def test_a_damaged_folder_is_told_or_kept(repo: ckstore.Repo, tmp_path: Path) -> None:
    folder = tmp_path / "dcp"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = {"m": {"w": torch.arange(6.0), "b": [torch.ones(1), 2]}, "step": 3}
        state_dict_saver.save(small, checkpoint_id=folder, no_dist=True)
    whole = {path: path.read_bytes() for path in folder.iterdir()}
    rng = random.Random(6)
    kept = 0
    for _ in range(MUTATIONS):
        path = rng.choice(sorted(whole))
        path.write_bytes(mutated(whole[path], rng))
        revision = committed(repo, folder)
        if revision is not None:
            assert_comes_back(repo, revision, folder)
            kept += 1
        path.write_bytes(whole[path])
    assert MUTATIONS // 10 < kept < MUTATIONS


def committed(repo: ckstore.Repo, folder: Path) -> str | None:
    try:
        return repo.commit_files(folder, preset="fast").id
    except Format:
        return None


def test_what_a_pickle_names_never_runs(repo: ckstore.Repo, tmp_path: Path) -> None:
    folder = tmp_path / "in" / "dcp"
    single(folder)
    canary = tmp_path / "canary"
    bomb = Bomb(f"touch {canary}")
    torch.save({"model": {"w": torch.ones(2)}, "x": bomb}, folder.parent / "training_args.bin")
    (folder / ".metadata").write_bytes(pickle.dumps(bomb))
    assert_comes_back(repo, repo.commit_files(folder.parent).id, folder.parent)
    assert not canary.exists()


# Lightning


def test_a_lightning_checkpoint(repo: ckstore.Repo, made: Callable[[str], Path]) -> None:
    folder = made("lightning_checkpoint")
    state = torch.load(folder / "final.ckpt", weights_only=False)
    assert state["callbacks"]
    assert state["optimizer_states"][0]["state"]
    alone = repo[repo.commit_files(folder / "final.ckpt").id].load()
    assert_equal(alone, state)
    together = repo[repo.commit_files(folder).id].load(only="final/state_dict")
    assert_equal(together, {"final/state_dict": dict(state["state_dict"])})


# transformers


def test_the_folder_of_a_trainer(repo: ckstore.Repo, made: Callable[[str], Path]) -> None:
    folder = made("transformers_trainer") / "runs" / "checkpoint-2"
    names = {path.name for path in folder.iterdir()}
    assert names >= {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"}
    assert "training_args.bin" in names
    result = repo.commit_files(folder)
    assert_comes_back(repo, result.id, folder)
    state = repo[result.id].load()
    assert set(state) == {"model", "optimizer", "scheduler", "rng_state"}
    assert_equal(state["model"], load_file(folder / "model.safetensors"))
    for name in ("optimizer", "scheduler"):
        assert_equal(state[name], torch.load(folder / f"{name}.pt", weights_only=False))


def test_the_shards_of_a_model_are_one_component(repo: ckstore.Repo, made: Callable[[str], Path]) -> None:
    folder = made("transformers_trainer")
    state = torch.load(folder / "whole.pt", weights_only=True)
    for inside, component, suffix in (("shards", "model", "*.safetensors"), ("bins", "pytorch_model", "*.bin")):
        assert len(list((folder / inside).glob(suffix))) > 2
        result = repo.commit_files(folder / inside)
        assert_comes_back(repo, result.id, folder / inside)
        checkpoint = repo[result.id]
        assert set(checkpoint.keys()) == {FILES, component}
        loaded = checkpoint.load(only=component)
        assert_equal(loaded, {component: dict(state)})


FORMS = ["whole.pt", "whole.safetensors", "shards", "bins"]


@pytest.mark.parametrize("second", FORMS[1:])
def test_formats_share_the_tensors_of_a_model(repo: ckstore.Repo, made: Callable[[str], Path], second: str) -> None:
    folder = made("transformers_trainer")
    first = repo.commit_files(folder / "whole.pt")
    assert shared(repo, first.id, repo.commit_files(folder / second).id) >= 0.99


# Accelerate


def test_what_accelerate_saves(repo: ckstore.Repo, made: Callable[[str], Path]) -> None:
    folder = made("accelerate_state")
    state = repo[repo.commit_files(folder).id].load()
    assert_equal(state["model"], load_file(folder / "model.safetensors"))
    assert_equal(state["optimizer"], torch.load(folder / "optimizer.bin", weights_only=False))
    assert_equal(state["scheduler"], torch.load(folder / "scheduler.bin", weights_only=False))
