"""validate: is what a commit holds what a training should hold? Its content; `verify` looks at how it is stored."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple

from ckstore.checkpoint.described import described
from ckstore.checkpoint.state import closest, structure
from ckstore.errors import CkstoreError, InvalidInput
from ckstore.graph.content import (
    PROBLEM,
    ContentFinding,
    ValidatedTensor,
    absence_findings,
    is_float,
    is_model,
    layout_finding,
    value_findings,
)
from ckstore.graph.placement import place
from ckstore.graph.tree_diff import Verdict, tree_diff
from ckstore.objects.commit import FILES
from ckstore.objects.tree import Alias, Tensor, dotted
from ckstore.progress import SILENT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ckstore.graph.history import CommitInfo
    from ckstore.graph.placement import Place
    from ckstore.graph.tree_diff import TreeDiff
    from ckstore.objects.commit import Commit
    from ckstore.objects.structure import Structure
    from ckstore.plugins import Plugin
    from ckstore.progress import Progress
    from ckstore.repository import Repository

    Layout = tuple[tuple[int, ...], str]

VALIDATOR = "validator"
"""The kind of plug-in that is asked: called with an iterator of ValidatedTensor, it gives ContentFindings."""


@dataclass(frozen=True)
class ValidateOptions:
    """What to hold a commit against.

    `now_ns` counts from 1970 UTC, for revisions such as `@2h`. `against` is an older commit; `expected` the shape and
    dtype of each tensor of the component `model`, by its path in there. `only`: patterns over dotted paths
    (`model.*`), None: all; with it nothing is said of what the commit lacks as a whole. `validators` are plug-ins.
    """

    now_ns: int
    against: str | None = None
    expected: Mapping[str, tuple[tuple[int, ...], str]] | None = None
    only: Sequence[str] | None = None
    validators: Sequence[Plugin] = ()


@dataclass(frozen=True)
class ValidateResult:
    """What was looked at, and what was found: no findings, and nothing is wrong that validate knows of.

    `unmeasured` counts those of the `tensors` whose elements are no numbers, or overlap: only their shapes were
    compared. `validators` are the plug-ins that were asked, by name.
    """

    commit: CommitInfo
    against: CommitInfo | None
    tensors: int
    unmeasured: int
    validators: tuple[str, ...]
    findings: tuple[ContentFinding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing was found, not even a warning."""
        return not self.findings


class _Trees(NamedTuple):
    """A commit's components, files apart, with the ordinals in each that were asked for."""

    found: dict[str, Structure]
    wanted: dict[str, set[int]]


def validate(
    repository: Repository, revision: str, options: ValidateOptions, progress: Progress = SILENT
) -> ValidateResult:
    """Look at a commit's tensors for NaN, infinities, weights that explode or are all zero, and other shapes.

    Reads every tensor asked for, on all threads, in little memory, as `show` does; changes nothing. A plug-in that
    raises becomes a finding. Raises `NoRevision`, `InvalidInput` (where `only` matches nothing, or the commit has no
    component that `expected` could be held against), `Integrity`, `Format`.
    """
    commits = repository.commits()
    newer = described(commits, revision, options.now_ns)
    older = None if options.against is None else described(commits, options.against, options.now_ns)
    after = _trees(repository, newer.commit, options)
    before = None if older is None else _trees(repository, older.commit, options)
    _check_matches(options, [one for one in (after, before) if one is not None])
    diffs = {} if before is None else _diffs(before, after)
    shapes = [*_compared(diffs), *_expected(after, options)]
    tensors, findings = _measured(repository, after, diffs, progress)
    findings += shapes
    if options.only is None:
        findings += absence_findings(after.found.values())
    for plugin in options.validators:
        findings += _asked(plugin, tensors)
    return ValidateResult(
        commit=newer.info,
        against=None if older is None else older.info,
        tensors=len(tensors),
        unmeasured=sum(one.statistics is None for one in tensors),
        validators=tuple(plugin.name for plugin in options.validators),
        findings=tuple(findings),
    )


def _trees(repository: Repository, commit: Commit, options: ValidateOptions) -> _Trees:
    found = {
        entry.name: structure(repository, commit, entry.name) for entry in commit.components if entry.name != FILES
    }
    wanted = {
        name: set(range(len(tree.nodes))) if options.only is None else tree.selected(options.only)
        for name, tree in found.items()
    }
    return _Trees(found, wanted)


def _check_matches(options: ValidateOptions, looked_at: Sequence[_Trees]) -> None:
    """Raise `InvalidInput` where `only` selects nothing in any commit."""
    if options.only is None or any(chosen for trees in looked_at for chosen in trees.wanted.values()):
        return
    paths = [tree.path(node.ordinal) for trees in looked_at for tree in trees.found.values() for node in tree.nodes]
    hint = closest(options.only, paths) if options.only else "leave only out to look at all"
    raise InvalidInput(f"nothing matches {', '.join(options.only)}", hint=hint)


def _diffs(before: _Trees, after: _Trees) -> dict[str, TreeDiff]:
    """What became of each component that both commits have."""
    return {
        name: tree_diff(before.found[name], tree, (before.wanted[name], after.wanted[name]))
        for name, tree in after.found.items()
        if name in before.found
    }


def _compared(diffs: Mapping[str, TreeDiff]) -> Iterator[ContentFinding]:
    """Tensors that the older commit has otherwise."""
    for component, diff in diffs.items():
        pairs: list[tuple[str, Place | None, Place | None]] = [(path, None, old) for path, old in diff.removed]
        pairs += [(path, new, None) for path, new in diff.added]
        pairs += [(one.path, one.after, one.before) for one in diff.retyped]
        for path, new, old in pairs:
            finding = layout_finding(path, _layout(new), _layout(old), strict=is_model(component))
            if finding is not None:
                yield finding


def _layout(of: Place | None) -> Layout | None:
    return None if of is None else (of.shape, of.dtype)


def _expected(trees: _Trees, options: ValidateOptions) -> Iterator[ContentFinding]:
    """Tensors of the model that are not as they are expected to be."""
    if options.expected is None:
        return
    tree = _model(trees)
    held: dict[str, Layout] = {}
    left_out: set[str] = set()
    for node in tree.nodes:
        value = node.entry.value
        if isinstance(value, (Tensor, Alias)):
            held[dotted(node.keys)] = value.shape, value.dtype
            if node.ordinal not in trees.wanted[tree.component]:
                left_out.add(dotted(node.keys))
    for name in (*options.expected, *(name for name in held if name not in options.expected)):
        path = dotted((tree.component, name))
        absent_and_unasked = name not in held and not _asked_for(tree.component, path, options)
        finding = layout_finding(path, held.get(name), options.expected.get(name), strict=True)
        if finding is not None and name not in left_out and not absent_and_unasked:
            yield finding


def _asked_for(component: str, path: str, options: ValidateOptions) -> bool:
    """Whether the patterns select a tensor that is not there."""
    return options.only is None or any(
        fnmatchcase(one, pattern) for one in (component, path) for pattern in options.only
    )


def _model(trees: _Trees) -> Structure:
    """The component that holds the weights."""
    named = [name for name in trees.found if is_model(name)]
    choices = ["model"] if "model" in named else named or list(trees.found)
    if len(choices) != 1:
        raise InvalidInput(
            "the commit has no component 'model' to compare with",
            why=f"it has {', '.join(trees.found) or 'none'}",
            hint="commit the weights as 'model', or name the commit that has them",
        )
    return trees.found[choices[0]]


def _measured(
    repository: Repository, trees: _Trees, diffs: Mapping[str, TreeDiff], progress: Progress
) -> tuple[list[ValidatedTensor], list[ContentFinding]]:
    """All tensors asked for with their figures, and what those say."""
    from ckstore.checkpoint.first_odd import first_odd
    from ckstore.checkpoint.measure import figures  # numpy

    placed = [
        (tree, node.ordinal, place(tree, node.ordinal))
        for name, tree in trees.found.items()
        for node in tree.nodes
        if node.ordinal in trees.wanted[name] and isinstance(node.entry.value, (Tensor, Alias))
    ]
    now = {(tree.component, at.key): at for tree, _, at in placed}
    then = {
        pair.path: pair.before
        for component, diff in diffs.items()
        for pair in diff.pairs
        if is_model(component) and is_float(pair.before.dtype) and pair.verdict is not Verdict.SAME
    }
    progress.start("reading", sum(at.raw_bytes for at in (*now.values(), *then.values())))
    held = figures(repository.store, now, progress)
    earlier = figures(repository.store, then, progress)
    tensors: list[ValidatedTensor] = []
    findings: list[ContentFinding] = []
    for tree, ordinal, at in placed:
        of = held[tree.component, at.key]
        tensor = ValidatedTensor(tree.path(ordinal), tree.component, at.dtype, at.shape, of)
        odd = first_odd(repository.store, at) if of is not None and (of.nans or of.infs) else None
        findings += value_findings(tensor, earlier.get(tensor.path), odd)
        tensors.append(tensor)
    return tensors, findings


def _asked(plugin: Plugin, tensors: Sequence[ValidatedTensor]) -> Iterator[ContentFinding]:
    """What a plug-in finds; that it raised, or gave something else, where it did."""
    name = f"{plugin.kind}.{plugin.name}"
    try:
        validator = plugin.load()
        if not callable(validator):
            raise InvalidInput(f"{plugin.entry.value} cannot be called")
        for finding in validator(iter(tensors)):
            if not isinstance(finding, ContentFinding):
                raise InvalidInput(f"it gave a {type(finding).__qualname__}, which is no ContentFinding")
            yield finding
    except CkstoreError as error:
        why = f" ({error.why})" if error.why else ""
        yield ContentFinding(name, "", f"the plug-in cannot be used: {error.what}{why}", PROBLEM)
    except (Exception, SystemExit) as error:
        yield ContentFinding(name, "", f"the plug-in raised {type(error).__name__}: {error}", PROBLEM)
