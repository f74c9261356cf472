"""export: a commit's state as a file, or folder, that other tools read; checked once it is written."""

from __future__ import annotations

import json
import posixpath
from dataclasses import dataclass, replace
from glob import escape
from typing import TYPE_CHECKING

from ckstore import durable
from ckstore.checkpoint.committed_files import committed_files, plan_files, write_files
from ckstore.checkpoint.compare import same_pt, same_safetensors
from ckstore.checkpoint.convert import convert, picked_tensors
from ckstore.checkpoint.state import LoadOptions, load, structure
from ckstore.checkpoint.targets import check_folder, check_free
from ckstore.errors import Integrity, InvalidInput
from ckstore.objects.commit import FILES
from ckstore.objects.tree import Tensor
from ckstore.progress import SILENT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ckstore.checkpoint.committed_files import CommittedFiles, Targets
    from ckstore.checkpoint.convert import Converted
    from ckstore.objects.commit import Commit
    from ckstore.progress import Progress
    from ckstore.repository import Repository

FORMATS = ("pytorch", "safetensors", "huggingface")

_SMALL_FILES = frozenset({".json", ".txt", ".model", ".jinja", ".md", ".py"})
_TRAINING = frozenset({"trainer_state.json"})
_MODELS = ("model", "pytorch_model")
_CONFIG = "config"
_CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class ExportOptions:
    """Where to, in which of FORMATS, and what of the state (`only`, patterns over dotted paths; None: all)."""

    output: Path
    now_ns: int
    format: str
    only: Sequence[str] | None = None
    force: bool = False


@dataclass(frozen=True)
class ExportResult:
    """The commit, the files written with their sizes in bytes, and how many values those could not take.

    All of it has been read back and compared with the commit, bit for bit.
    """

    id: str
    format: str
    files: tuple[tuple[Path, int], ...]
    left_out: int
    left_out_paths: tuple[str, ...]


def export(repository: Repository, revision: str, options: ExportOptions, progress: Progress = SILENT) -> ExportResult:
    """Write a commit's state for other tools.

    `pytorch` is a file for torch.load; `safetensors` one of all tensors; `huggingface` a folder with all weights in one
    `model.safetensors`, the configuration and the tokenizer, for `from_pretrained`. Raises `InvalidInput` for a format
    that is not known or cannot take the state, or where something is there already; `Integrity` where what was written
    does not come back.
    """
    if options.format not in FORMATS:
        raise InvalidInput(f"{options.format!r} is no format to export", hint=f"use one of {', '.join(FORMATS)}")
    id, commit = repository.resolve(revision, options.now_ns)
    if options.format == "huggingface":
        files, made = _huggingface(repository, commit, options, progress)
    else:
        files = []
        made = _checked(repository, commit, options, options.output, progress)
    files = [(made.path, made.size_bytes), *files]
    return ExportResult(id.hex(), options.format, tuple(files), made.left_out, made.left_out_paths)


def _checked(
    repository: Repository, commit: Commit, options: ExportOptions, path: Path, progress: Progress
) -> Converted:
    """The new file `path`, which has been read back and found equal before it got its name."""
    only = options.only
    format, same = ("pt", same_pt) if options.format == "pytorch" else ("safetensors", same_safetensors)

    def check(part: Path) -> None:
        if not same(repository, commit, part, only):
            raise Integrity(f"{path} would not hold what the commit holds", hint="check this machine's memory and disk")

    check_free(path, force=options.force)
    return convert(repository, commit, path, format, only, progress, check)


def _huggingface(
    repository: Repository, commit: Commit, options: ExportOptions, progress: Progress
) -> tuple[list[tuple[Path, int]], Converted]:
    if options.only is None:
        options = replace(options, only=[escape(_model_component(repository, commit))])
    folder = options.output
    check_folder(folder)
    found = committed_files(repository, commit)
    beside = None if found is None else _beside_the_weights(repository, commit, found, options)
    own_config = beside is not None and folder / _CONFIG_FILE in beside.files.values()
    config = None if own_config else _config(repository, commit)
    if config is not None:
        check_free(folder / _CONFIG_FILE, force=options.force)
    made = _checked(repository, commit, options, folder / "model.safetensors", progress)
    files = [] if found is None or beside is None else write_files(found, beside, progress)
    if config is not None:
        durable.put(folder / _CONFIG_FILE, config)
        files.append((folder / _CONFIG_FILE, len(config)))
    return files, made


def _model_component(repository: Repository, commit: Commit) -> str:
    names = [entry.name for entry in commit.components if entry.name != FILES]
    for model in _MODELS:
        called = [name for name in names if posixpath.basename(name) == model]
        if model in names or len(called) == 1:
            return model if model in names else called[0]
    with_tensors = [name for name in names if _holds_tensors(repository, commit, name)]
    if len(with_tensors) != 1:
        raise InvalidInput(
            "which component is the model?", why=f"there are {', '.join(names) or 'none'}", hint="--only COMPONENT"
        )
    return with_tensors[0]


def _holds_tensors(repository: Repository, commit: Commit, name: str) -> bool:
    return any(isinstance(node.entry.value, Tensor) for node in structure(repository, commit, name).nodes)


def _beside_the_weights(
    repository: Repository, commit: Commit, found: CommittedFiles, options: ExportOptions
) -> Targets:
    """The configuration, tokenizer and code files from the folder that the weights come from, and below it."""
    picked, _ = picked_tensors(repository, commit, options.only)
    components = {one.structure.component for one in picked}
    weights = [name for name, file in found.files.items() if not components.isdisjoint(file.components)]
    folders = {posixpath.dirname(name) for name in weights}
    top = folders.pop() if len(folders) == 1 else ""
    names = [
        name
        for name, file in found.files.items()
        if name.startswith(f"{top}/" if top else "")
        and not file.components
        and posixpath.splitext(name)[1] in _SMALL_FILES
        and not name.endswith(".index.json")
        and posixpath.basename(name) not in _TRAINING
    ]
    return plan_files(found, names, options.output, as_file=False, force=options.force, top=top)


def _config(repository: Repository, commit: Commit) -> bytes | None:
    """The text of `config.json` from the component `config` of a state; None where that is no plain data."""
    if all(entry.name != _CONFIG for entry in commit.components):
        return None
    state = load(repository, commit, LoadOptions([_CONFIG]))
    config = state.get(_CONFIG) if isinstance(state, dict) else None
    try:
        return json.dumps(config, indent=2, allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError):
        return None
