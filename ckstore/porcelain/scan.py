"""scan: what folders of checkpoints would take as commits. Reads and hashes everything, writes nothing."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ckstore.codec.preset import preset_named
from ckstore.errors import Format, InvalidInput
from ckstore.files.bundle import bundle_file, bundle_files
from ckstore.files.listing import files_draft
from ckstore.files.source import Files
from ckstore.files.units import units
from ckstore.objects.commit import FILES
from ckstore.objects.reader import read_tree
from ckstore.progress import SILENT, Part
from ckstore.storage.estimator import Estimator
from ckstore.storage.ingest import ingest
from ckstore.storage.versions import LIKE_AT_MOST, Candidate, earlier_versions
from ckstore.storage.workers import PerThread, Workers

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from ckstore.files.units import Unit
    from ckstore.objects.draft import Draft
    from ckstore.objects.tree import Tree
    from ckstore.progress import Progress
    from ckstore.storage.estimator import Tally

_SAMPLED_BYTES = 512 << 20
"""Of each checkpoint about so much is encoded, if it is longer."""

_LEAST_SHARE = 1 / 16


@dataclass(frozen=True)
class ScanOptions:
    """The folders, how chunks would be stored, and which share of them is encoded (None: it depends on their size)."""

    folders: Sequence[Path]
    preset: str = "balanced"
    share: float | None = None
    threads: int | None = None


@dataclass(frozen=True)
class ScanRow:
    """A part of what was scanned: bytes as they are, and as they would be stored."""

    name: str
    checkpoints: int
    raw_bytes: int
    stored_bytes: int


@dataclass(frozen=True)
class ScanResult:
    """What the folders hold, and what they would take as commits, one after another.

    `stored_bytes` may be off by `error_bytes` (two standard errors of the sample; 0 where all was encoded).
    `unique_bytes` is what deduplication alone would leave. `import_s` is about how long an import would take here.
    `damaged` names files that are in a known format but do not fit it; they count as plain bytes.
    """

    checkpoints: int
    files: int
    raw_bytes: int
    unique_bytes: int
    stored_bytes: int
    error_bytes: int
    encoded_bytes: int
    seconds: float
    import_s: float
    by_folder: tuple[ScanRow, ...]
    by_kind: tuple[ScanRow, ...]
    damaged: tuple[tuple[str, str], ...]


class _Scanned(NamedTuple):
    folder: str
    kind: str
    tally: Tally


@dataclass
class _Scan:
    """A scan under way. `tips` holds the trees of the last checkpoint of each series, the newest series last."""

    estimator: Estimator
    workers: Workers
    files: Files
    options: ScanOptions
    progress: Progress
    tips: dict[str, dict[str, Tree]] = field(default_factory=dict)
    scanned: list[_Scanned] = field(default_factory=list)
    damaged: list[tuple[str, str]] = field(default_factory=list)
    file_count: int = 0

    def take(self, root: Path, unit: Unit) -> None:
        """Count one checkpoint."""
        sources = {name: self.files.add(path) for name, path in unit.files.items()}
        size = sum(source.size_bytes for source in sources.values())
        try:
            bundle = bundle_file(*next(iter(sources.items()))) if unit.alone else bundle_files(sources)
        except Format as error:
            self.damaged.append((unit.name, error.what))
            bundle = bundle_files(sources, opaque=True)
        drafts = {**bundle.components, FILES: files_draft(bundle, sources, {}, {})}
        tally = self.estimator.begin(self._share(size))
        series = f"{root}/{unit.series}"
        earlier = self._earlier(series, drafts)
        ids = ingest(drafts, self.estimator, self.workers, Part(self.progress), earlier)
        self.tips.pop(series, None)
        self.tips[series] = {name: read_tree(self.estimator, id) for name, id in ids.items()}
        folder = str(root / unit.name.rpartition("/")[0].split("/")[0]) if "/" in unit.name else str(root)
        self.scanned.append(_Scanned(folder, unit.kind, tally))
        self.file_count += len(sources)

    def _share(self, size_bytes: int) -> float:
        if self.options.share is not None:
            return self.options.share
        return min(1.0, max(_LEAST_SHARE, _SAMPLED_BYTES / max(size_bytes, 1)))

    def _earlier(self, series: str, drafts: dict[str, Draft]) -> dict[str, Tree]:
        """Where bases come from, as in a commit: the checkpoint before, or the most alike of other series."""
        before = self.tips.get(series)
        newest = [before] if before else list(self.tips.values())[: -LIKE_AT_MOST - 1 : -1]
        candidates = (Candidate(name, tree) for trees in newest for name, tree in trees.items())
        return earlier_versions(candidates, drafts, parents=before is not None)


def scan(options: ScanOptions, progress: Progress = SILENT) -> ScanResult:
    """Estimate what the checkpoints under some folders would take as commits.

    Everything is read and hashed, so that what is there twice is known for sure; of what is new a sample is encoded
    as a commit would, against the checkpoint before it. Raises `NotFound`, `InvalidInput`.
    """
    if options.share is not None and not 0 < options.share <= 1:
        raise InvalidInput(f"a share of {options.share} cannot be sampled", hint="give one above 0, up to 1")
    preset = preset_named(options.preset)
    found = [(folder, unit) for folder in options.folders for unit in units(folder)]
    if not found:
        raise InvalidInput(f"there is no file in {options.folders[0]}", hint="check the path")
    began = time.perf_counter()
    progress.start("scanning", sum(path.stat().st_size for _, unit in found for path in unit.files.values()))
    workers = Workers(options.threads)
    try:
        with Files() as files:
            run = _Scan(Estimator(preset, PerThread()), workers, files, options, progress)
            for folder, unit in found:
                run.take(folder, unit)
    finally:
        workers.close()
    return _result(run, time.perf_counter() - began)


def _result(run: _Scan, seconds: float) -> ScanResult:
    estimator, tallies = run.estimator, [one.tally for one in run.scanned]
    total = estimator.estimate_all(tallies)
    unique = sum(tally.new_bytes for tally in tallies)
    left = sum(sum(tally.unsampled.values()) for tally in tallies)
    rate = estimator.encode_s / max(estimator.encoded_bytes, 1)
    return ScanResult(
        checkpoints=len(tallies),
        files=run.file_count,
        raw_bytes=sum(tally.raw_bytes for tally in tallies),
        unique_bytes=unique,
        stored_bytes=round(total.stored_bytes),
        error_bytes=round(total.error_bytes),
        encoded_bytes=estimator.encoded_bytes,
        seconds=seconds,
        import_s=seconds + left * rate / run.workers.count,
        by_folder=_rows(estimator, ((one.folder, one.tally) for one in run.scanned)),
        by_kind=_rows(estimator, ((one.kind, one.tally) for one in run.scanned)),
        damaged=tuple(run.damaged),
    )


def _rows(estimator: Estimator, tallies: Iterable[tuple[str, Tally]]) -> tuple[ScanRow, ...]:
    """Tallies added up by name, the largest first."""
    groups: dict[str, list[Tally]] = defaultdict(list)
    for name, tally in tallies:
        groups[name].append(tally)
    rows = [
        ScanRow(name, len(group), sum(tally.raw_bytes for tally in group), round(sum(map(estimator.estimate, group))))
        for name, group in groups.items()
    ]
    return tuple(sorted(rows, key=lambda row: -row.raw_bytes))
