"""scan, import and export: checkpoints of other tools, in and out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ckstore.api.environment import default_author, now
from ckstore.cli.complete import revisions
from ckstore.cli.context import PRICE, JsonFlag, Price, emit, settings
from ckstore.cli.progress_line import size
from ckstore.cli.text import count, left_out, printable, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckstore.porcelain.import_files import ImportPlan, ImportResult
    from ckstore.porcelain.scan import ScanResult, ScanRow


_SHOWN = 12

PARTIAL = 3
"""Exit code of an import that left something out."""


def scan(
    context: typer.Context,
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of checkpoints, or single files.")],
    preset: Annotated[str, typer.Option("--preset", help="How chunks would be stored.")] = "balanced",
    sample: Annotated[
        float | None, typer.Option("--sample", help="Share of the new data that is encoded (default: by size).")
    ] = None,
    price: Price = PRICE,
    json: JsonFlag = False,
) -> None:
    """Say what folders of checkpoints would shrink to. Reads everything, writes nothing.

    Example: ckstore scan runs/ /data/checkpoints
    """
    from ckstore.porcelain import scan as scan_verb  # the parsers and codecs: no other command should wait for them

    told = settings(context, json_flag=json)
    result = scan_verb.scan(scan_verb.ScanOptions(folders, preset, sample), told.bar())
    emit(told, result, _text(result, price))


def import_(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder that holds the checkpoints.")],
    pattern: Annotated[
        list[str] | None,
        typer.Option("--pattern", metavar="GLOB", help="Files or folders in DIR, a checkpoint each; may be repeated."),
    ] = None,
    branch: Annotated[str | None, typer.Option("--branch", help="Branch to add to (default: the current one).")] = None,
    metric_from: Annotated[
        str | None,
        typer.Option("--metric-from", metavar="REGEX", help="Finds metrics in names: 'loss=(?P<loss>[0-9.]+[0-9])'."),
    ] = None,
    metrics_csv: Annotated[
        Path | None,
        typer.Option("--metrics-csv", metavar="FILE", help="A table of metrics with a column step or epoch."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Delete each original once it has come back from the disk byte for byte.")
    ] = False,
    opaque: Annotated[bool, typer.Option("--opaque", help="Do not look inside the files.")] = False,
    preset: Annotated[str | None, typer.Option("--preset", help="How to store chunks.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Delete originals without asking.")] = False,
    json: JsonFlag = False,
) -> None:
    """Take checkpoints over as one history, in the order of their steps. Run it again to go on where it stopped.

    Example: ckstore import runs/old --pattern 'step_*.pt' --metrics-csv runs/old/metrics.csv

    Exit code 3 if some were damaged and left out.
    """
    from ckstore.porcelain import import_files as verb  # the parsers: no other command should wait for them

    told = settings(context, json_flag=json)
    with told.open() as repository:
        options = verb.ImportOptions(
            folder=folder,
            now_ns=told.now_ns,
            patterns=pattern or (),
            branch=branch,
            metric_from=metric_from,
            table=metrics_csv,
            preset=preset,
            author=default_author(repository.config),
            offset_min=now()[1],
            opaque=opaque,
        )
        plan = verb.plan_import(repository, options)
        if dry_run:
            emit(told, plan, "\n".join(_planned(plan)))
        else:
            if replace and not yes:
                told.confirm(
                    f"Delete the originals of {count(len(plan.entries), 'checkpoint')} once each has come back?",
                    "--yes",
                )
            result = verb.execute_import(repository, plan, told.bar(), replace_originals=replace)
            emit(told, result, "\n".join(_imported(result)))
    if plan.damaged:
        raise typer.Exit(PARTIAL)


def _planned(plan: ImportPlan) -> list[str]:
    rows = [
        (
            printable(entry.name),
            "" if entry.facts.step is None else str(entry.facts.step),
            "" if entry.facts.epoch is None else str(entry.facts.epoch),
            size(entry.size_bytes),
            "already there"
            if entry.commit
            else " ".join(f"{printable(n)}={v:.4g}" for n, v in entry.facts.metrics.items()),
        )
        for entry in plan.entries
    ]
    return [
        f"Would become commits of {plan.branch}, in this order:",
        *table(("checkpoint", "step", "epoch", "size", "metrics"), rows, right=(1, 2, 3)),
        *_damaged(plan.damaged),
    ]


def _imported(result: ImportResult) -> list[str]:
    freed = f"; originals of {size(result.freed_bytes)} deleted" if result.freed_bytes else ""
    there = f", {result.already_there} were there already" if result.already_there else ""
    ratio = _ratio(result.raw_bytes, result.pack_bytes)
    return [
        f"[{result.branch}] {count(result.imported, 'checkpoint')} imported{there}{freed}",
        f" {size(result.raw_bytes)} given, {size(result.pack_bytes)} stored ({ratio})",
        *_damaged(result.damaged),
    ]


def _damaged(damaged: Sequence[tuple[str, str]]) -> list[str]:
    return ["Damaged and left out (--opaque takes them as they are):"] * bool(damaged) + [
        f"  {printable(name)}: {printable(what)}" for name, what in damaged
    ]


def _text(result: ScanResult, price: float) -> str:
    raw, stored = result.raw_bytes, result.stored_bytes
    sure = f" ± {size(result.error_bytes)}" if result.error_bytes else ""
    lines = [
        f"{size(raw)} would become {size(stored)}{sure}: {_ratio(raw, stored)}, {size(max(raw - stored, 0))} saved.",
        f"{count(result.checkpoints, 'checkpoint')} in {count(result.files, 'file')}; {size(result.unique_bytes)}"
        f" without what is there twice ({_encoded(result)}).",
        f"To import it takes about {_duration(result.import_s)} on this machine; at ${price:g} a GB and month it costs"
        f" ${raw * price / 1e9:.2f} now, ${stored * price / 1e9:.2f} then.",
        "",
        *_rows("folder", result.by_folder),
        "",
        *_rows("kind", result.by_kind),
    ]
    if result.damaged:
        lines += ["", "Damaged files, counted as plain bytes:"]
        lines += [f"  {printable(name)}: {printable(what)}" for name, what in result.damaged[:_SHOWN]]
        if len(result.damaged) > _SHOWN:
            lines.append(f"  and {len(result.damaged) - _SHOWN} more")
    return "\n".join([*lines, "", "Nothing was written. `ckstore import DIR --pattern ...` takes checkpoints over."])


def _encoded(result: ScanResult) -> str:
    if result.encoded_bytes >= result.unique_bytes:
        return "all of that was encoded to see"
    return f"{size(result.encoded_bytes)} of that were encoded to estimate the rest"


def _rows(what: str, rows: tuple[ScanRow, ...]) -> list[str]:
    cells = [
        (
            printable(row.name),
            str(row.checkpoints),
            size(row.raw_bytes),
            size(row.stored_bytes),
            _ratio(row.raw_bytes, row.stored_bytes),
        )
        for row in rows[:_SHOWN]
    ]
    more = [f"  and {len(rows) - _SHOWN} more"] if len(rows) > _SHOWN else []
    return table((what, "checkpoints", "now", "then", ""), cells, right=(1, 2, 3, 4)) + more


def _ratio(raw: int, stored: int) -> str:
    return f"{raw / stored:.2f}x" if raw and stored else "-"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def export(
    context: typer.Context,
    revision: Annotated[str, typer.Argument(help="Which commit.", autocompletion=revisions)],
    output: Annotated[Path, typer.Option("-o", "--output", help="The new file, or folder for huggingface.")],
    format: Annotated[str, typer.Option("--format", help="pytorch, safetensors or huggingface.")],
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="GLOB", help="What of it, by path; may be repeated.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what exists.")] = False,
    json: JsonFlag = False,
) -> None:
    """Write a commit's state for other tools, and check it bit for bit.

    Example: ckstore export best:val/loss:min -o out --format huggingface
    """
    from ckstore.porcelain.export import ExportOptions
    from ckstore.porcelain.export import export as verb

    told = settings(context, json_flag=json)
    with told.open() as repository:
        options = ExportOptions(output, told.now_ns, format, only, force)
        result = verb(repository, revision, options, told.bar())
    lines = [f"{printable(str(path))}  {size(length)}" for path, length in result.files]
    emit(told, result, "\n".join([*lines, *left_out(result), "Read back: equal to the commit, bit for bit."]))
