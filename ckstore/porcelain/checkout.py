"""checkout: write a commit's files, or its state, to the disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckstore.checkpoint.committed_files import committed_files, matching, plan_files, write_files
from ckstore.checkpoint.convert import FORMATS, convert
from ckstore.checkpoint.targets import check_free
from ckstore.errors import InvalidInput
from ckstore.progress import SILENT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ckstore.checkpoint.committed_files import CommittedFiles
    from ckstore.progress import Progress
    from ckstore.repository import Repository


@dataclass(frozen=True)
class CheckoutOptions:
    """What to write, and where.

    `only` selects files by name (`*.json`, `model-0*`) or, where none is named so, tensors and values by dotted path
    (`model.*`). `format` (pt, safetensors) asks for a new file of that kind; None means the files as they were
    committed; but where `output` ends in `.pt` or `.safetensors` and no single file of that kind was asked for, what
    that says. `force` replaces what is there.
    """

    output: Path
    now_ns: int
    only: Sequence[str] | None = None
    format: str | None = None
    force: bool = False


@dataclass(frozen=True)
class CheckoutResult:
    """The commit, and the files written with their sizes in bytes.

    `converted` says that they are new ones; `left_out` is how many values those could not take (they are no tensors).
    """

    id: str
    files: tuple[tuple[Path, int], ...]
    converted: bool = False
    left_out: int = 0
    left_out_paths: tuple[str, ...] = ()


def checkout(
    repository: Repository, revision: str, options: CheckoutOptions, progress: Progress = SILENT
) -> CheckoutResult:
    """Write a commit's files, byte-identical, or its state as a new file.

    Files have the modes and times they had, and appear under their names only once all of them was read and hashed.
    Raises `InvalidInput` where something is there already, nothing matches, or the state does not fit the format.
    """
    id, commit = repository.resolve(revision, options.now_ns)
    found = committed_files(repository, commit)
    names = [] if found is None else list(found.files)
    if options.only is not None:
        names = matching(names, options.only)
    format = _format(options, found, names)
    if found is not None and format is None:
        as_file = found.alone or _is_single(options, names)
        targets = plan_files(found, names, options.output, as_file=as_file, force=options.force)
        return CheckoutResult(id.hex(), tuple(write_files(found, targets, progress)))
    if format not in FORMATS:
        short = id.hex()[:12]
        why = f"nothing in it is named {', '.join(options.only)}" if found is not None and options.only else None
        raise InvalidInput(
            f"commit {short} has no files to write here" if why else f"commit {short} was made from memory",
            why=why,
            hint=f"--format pt or safetensors makes a file of its state; in Python: repo[{short!r}].load()",
        )
    target = options.output
    if target.is_dir():
        target = target / f"{id.hex()[:12]}.{format}"
    check_free(target, force=options.force)
    made = convert(repository, commit, target, format, options.only, progress)
    return CheckoutResult(
        id.hex(),
        ((made.path, made.size_bytes),),
        converted=True,
        left_out=made.left_out,
        left_out_paths=made.left_out_paths,
    )


def _format(options: CheckoutOptions, found: CommittedFiles | None, names: Sequence[str]) -> str | None:
    """The format of the new file that is asked for; None for files as they were committed."""
    if options.format is not None:
        return options.format
    if found is None or not names:
        return options.output.suffix.removeprefix(".")
    said = _says_format(options)
    as_it_is = (found.alone or _is_single(options, names)) and names[0].endswith(".safetensors") == (
        said == "safetensors"
    )
    return None if said is None or as_it_is else said


def _says_format(options: CheckoutOptions) -> str | None:
    """The format that the name of the new file has at its end, if that is no folder."""
    suffix = options.output.suffix.removeprefix(".")
    return suffix if suffix in FORMATS and not options.output.is_dir() else None


def _is_single(options: CheckoutOptions, names: Sequence[str]) -> bool:
    """Whether one file was asked for, by its name or where the output's name cannot be a folder's."""
    if options.only is None or len(names) != 1:
        return False
    return names[0] in options.only or _says_format(options) is not None
