"""What a checkpoint should not hold, or should: findings from the figures and names of its tensors alone."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckstore.errors import InvalidInput
from ckstore.objects.tree import RngState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ckstore.graph.sums import Statistics
    from ckstore.objects.structure import Structure

PROBLEM = "problem"
WARNING = "warning"

MOST = 1e6
"""A weight of a larger absolute value is taken for one that explodes."""

GROWN = 1000.0
"""A weight tensor whose norm is more than so many times what it was is taken for one that explodes."""

_SCALES = frozenset({"float8_e8m0fnu"})
"""Dtypes whose numbers are powers of two to scale others by: large ones are no sign of anything."""


@dataclass(frozen=True)
class ContentFinding:
    """Something about a commit's content: `check` names what looked, `path` is dotted, empty for the whole commit.

    `severity` is `problem` or `warning`. Raises `InvalidInput` for another.
    """

    check: str
    path: str
    what: str
    severity: str = PROBLEM

    def __post_init__(self) -> None:
        if self.severity not in (PROBLEM, WARNING):
            raise InvalidInput(f"{self.severity!r} is no severity", hint=f"use {PROBLEM!r} or {WARNING!r}")


@dataclass(frozen=True)
class ValidatedTensor:
    """A tensor of a commit; `path` is dotted and begins with the component's name.

    `statistics` is None for elements that are no numbers, or that overlap.
    """

    path: str
    component: str
    dtype: str
    shape: tuple[int, ...]
    statistics: Statistics | None

    @property
    def is_float(self) -> bool:
        """Whether its elements may be NaN or infinite."""
        return is_float(self.dtype)


def is_float(dtype: str) -> bool:
    """Whether elements of that dtype may be NaN or infinite."""
    return dtype.startswith(("float", "bfloat", "complex"))


def is_model(component: str) -> bool:
    """Whether a component of that name holds weights: `model`, `ckpt/model_state_dict`, `state_dict`."""
    last = component.rpartition("/")[2].lower()
    return ("model" in last or last == "state_dict") and not is_optimizer(component)


def is_optimizer(component: str) -> bool:
    """Whether a component of that name holds an optimizer's state."""
    return "optim" in component.lower()


def norm(of: Statistics) -> float | None:
    """The Euclidean norm of the finite elements; None where there is none."""
    if of.mean is None or of.std is None:
        return None
    return math.hypot(of.mean, of.std) * math.sqrt(of.elements - of.nans - of.infs)


def value_findings(tensor: ValidatedTensor, before: Statistics | None, first: int | None) -> Iterator[ContentFinding]:
    """What the figures of a tensor say.

    `before` are its figures in an older commit, where it is compared with one; `first` is the flat index of its first
    NaN or infinity, where that is known.
    """
    of = tensor.statistics
    if of is None:
        return
    if of.nans or of.infs:
        counts = " and ".join(f"{count} {name}" for count, name in ((of.nans, "NaN"), (of.infs, "Inf")) if count)
        where = "" if first is None else f", the first at flat index {first}"
        yield ContentFinding("nan-inf", tensor.path, f"{counts} of {of.elements} elements{where}")
    if not is_model(tensor.component):
        return
    if len(tensor.shape) >= 2 and of.elements and of.zero_share == 1:
        yield ContentFinding("zero", tensor.path, f"all {of.elements} elements are zero")
    if tensor.is_float and tensor.dtype not in _SCALES:
        yield from _exploding(tensor.path, of, before)


def _exploding(path: str, of: Statistics, before: Statistics | None) -> Iterator[ContentFinding]:
    if of.minimum is None or of.maximum is None:
        return
    largest = max(abs(of.minimum), abs(of.maximum))
    if largest > MOST:
        yield ContentFinding("exploding", path, f"the largest absolute value is {largest:.4g}")
    now, then = norm(of), None if before is None else norm(before)
    if now is not None and then and now > GROWN * then:
        yield ContentFinding("exploding", path, f"the norm grew from {then:.4g} to {now:.4g}")


def layout_finding(
    path: str, found: tuple[tuple[int, ...], str] | None, wanted: tuple[tuple[int, ...], str] | None, *, strict: bool
) -> ContentFinding | None:
    """How a tensor's shape and dtype differ from what is wanted of it, if they do; None where one has it not.

    One too many is a problem where `strict` says so, else a warning.
    """
    if found == wanted:
        return None
    if found is None:
        return ContentFinding("shapes", path, f"missing: {_layout(wanted)}")
    if wanted is None:
        return ContentFinding("shapes", path, f"unexpected: {_layout(found)}", PROBLEM if strict else WARNING)
    return ContentFinding("shapes", path, f"is {_layout(found)}, not {_layout(wanted)}")


def _layout(of: tuple[tuple[int, ...], str] | None) -> str:
    shape, dtype = of or ((), "")
    return f"{dtype} {'x'.join(map(str, shape)) or 'scalar'}"


def absence_findings(structures: Iterable[Structure]) -> Iterator[ContentFinding]:
    """What a commit lacks that a training needs to go on as if it had never stopped."""
    trees = list(structures)
    if not any(is_optimizer(tree.component) for tree in trees):
        yield ContentFinding("missing", "", "no optimizer state: no component is called so", WARNING)
    if not any(map(_has_rng, trees)):
        yield ContentFinding("missing", "", "no RNG state: nothing is called rng, and no generator is kept", WARNING)


def _has_rng(tree: Structure) -> bool:
    if _is_rng(tree.component):
        return True
    return any(
        isinstance(node.entry.value, RngState) or (bool(node.keys) and _is_rng(node.keys[-1])) for node in tree.nodes
    )


def _is_rng(name: object) -> bool:
    """Whether a name says that what it names are random states: `rng`, `cuda_rng_state`, `random_states_0`."""
    if not isinstance(name, str):
        return False
    lower = name.lower()
    return "random_state" in lower or "rng" in re.split(r"[^a-z0-9]+", lower)
