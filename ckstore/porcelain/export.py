"""export: a commit's state as a file, or folder, that other tools read; checked once it is written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from ckstore import durable
from ckstore.checkpoint.committed_files import committed_files, write_files
from ckstore.checkpoint.compare import same_pt, same_safetensors
from ckstore.checkpoint.convert import convert
from ckstore.checkpoint.state import LoadOptions, load, structure
from ckstore.errors import Integrity, InvalidInput
from ckstore.objects.commit import FILES
from ckstore.objects.tree import Tensor
from ckstore.progress import SILENT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ckstore.checkpoint.committed_files import CommittedFiles
    from ckstore.checkpoint.convert import Converted
    from ckstore.objects.commit import Commit
    from ckstore.progress import Progress
    from ckstore.repository import Repository

FORMATS = ("pytorch", "safetensors", "huggingface")

_SMALL_FILES = frozenset({".json", ".txt", ".model", ".jinja", ".md", ".py"})
_TRAINING = frozenset({"trainer_state.json"})
_MODELS = ("model", "pytorch_model")
_CONFIG = "config"


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
        _check_free(options.output, options)
        made = _checked(repository, commit, options.output, options.format, options.only, progress)
        files = []
    files = [(made.path, made.size_bytes), *files]
    return ExportResult(id.hex(), options.format, tuple(files), made.left_out, made.left_out_paths)


def _check_free(path: Path, options: ExportOptions) -> None:
    if path.is_dir():
        raise InvalidInput(f"{path} is a folder", hint="give the name of a new file")
    if path.exists() and not options.force:
        raise InvalidInput(f"{path} exists", hint="choose another -o PATH, or --force to replace it")


def _checked(
    repository: Repository,
    commit: Commit,
    path: Path,
    format: str,
    only: Sequence[str] | None,
    progress: Progress,
) -> Converted:
    """The new file `path`, once it has been read back and found equal."""
    made = convert(repository, commit, path, "pt" if format == "pytorch" else "safetensors", only, progress)
    same = same_pt if format == "pytorch" else same_safetensors
    if not same(repository, commit, path, only):
        raise Integrity(f"{path} does not hold what the commit holds", hint="check this machine's memory and disk")
    return made


def _huggingface(
    repository: Repository, commit: Commit, options: ExportOptions, progress: Progress
) -> tuple[list[tuple[Path, int]], Converted]:
    only = options.only or [_model_component(repository, commit)]
    folder = options.output
    if folder.exists() and not folder.is_dir():
        raise InvalidInput(f"{folder} is no folder", hint="give the name of a new folder")
    weights = folder / "model.safetensors"
    _check_free(weights, options)
    found = committed_files(repository, commit)
    names = [] if found is None else _beside_the_weights(found)
    files = []
    if found is not None and names:
        files = write_files(found, names, folder, progress, as_file=False, force=options.force)
    made = _checked(repository, commit, weights, "safetensors", only, progress)
    if not any(path.name == "config.json" for path, _ in files):
        files += _written_config(repository, commit, folder)
    return files, made


def _model_component(repository: Repository, commit: Commit) -> str:
    names = [entry.name for entry in commit.components if entry.name != FILES]
    for name in _MODELS:
        if name in names:
            return name
    with_tensors = [name for name in names if _holds_tensors(repository, commit, name)]
    if len(with_tensors) != 1:
        raise InvalidInput(
            "which component is the model?", why=f"there are {', '.join(names) or 'none'}", hint="--only COMPONENT"
        )
    return with_tensors[0]


def _holds_tensors(repository: Repository, commit: Commit, name: str) -> bool:
    return any(isinstance(node.entry.value, Tensor) for node in structure(repository, commit, name).nodes)


def _beside_the_weights(found: CommittedFiles) -> list[str]:
    """The configuration, tokenizer and code files of a Hugging Face folder."""
    return [
        name
        for name, file in found.files.items()
        if not file.components
        and PurePosixPath(name).suffix in _SMALL_FILES
        and not name.endswith(".index.json")
        and PurePosixPath(name).name not in _TRAINING
    ]


def _written_config(repository: Repository, commit: Commit, folder: Path) -> list[tuple[Path, int]]:
    """`config.json` from the component `config` of a state, where that is plain data."""
    if all(entry.name != _CONFIG for entry in commit.components):
        return []
    state = load(repository, commit, LoadOptions([_CONFIG]))
    config = state.get(_CONFIG) if isinstance(state, dict) else None
    try:
        text = json.dumps(config, indent=2, allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError):
        return []
    path = folder / "config.json"
    durable.put(path, text)
    return [(path, len(text))]
