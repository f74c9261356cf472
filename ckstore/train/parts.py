"""What a run consists of: live objects by component, checked when the run begins, captured and put back as one."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ckstore.errors import InvalidInput, nearest
from ckstore.objects.commit import is_component_name
from ckstore.torch.load_into import check, put
from ckstore.torch.staging import place_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckstore.torch.load_into import LoadReport
    from ckstore.torch.staging import Place

RESERVED = ("config", "data", "environment", "gradients", "rng", "run")
"""Components that a run fills by itself."""

_GENERATORS = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)


class Parts:
    """The live objects of a run, by component. Wrappers (DDP, torch.compile) are looked through.

    An object has `state_dict` and `load_state_dict`, or is a random generator; a list, tuple or dictionary of such
    is one component. Raises `InvalidInput` for anything else.
    """

    def __init__(self, parts: Mapping[str, object]) -> None:
        self.parts = {name: _unwrapped(part) for name, part in parts.items() if part is not None}
        for name, part in self.parts.items():
            if name in RESERVED or not is_component_name(name):
                raise InvalidInput(f"a part of a run cannot be called {name!r}", hint=f"not {', '.join(RESERVED)}")
            for path, leaf in _leaves(name, part):
                _check_leaf(path, leaf)
        self.leaves = {path: leaf for name, part in self.parts.items() for path, leaf in _leaves(name, part)}
        if not self.leaves:
            raise InvalidInput(
                "a run needs something to keep", hint="repo.track(name, model=model, optimizer=optimizer)"
            )
        self.modules = {path: leaf for path, leaf in self.leaves.items() if isinstance(leaf, torch.nn.Module)}
        self.optimizers = {path: leaf for path, leaf in self.leaves.items() if isinstance(leaf, torch.optim.Optimizer)}

    def stepped(self) -> set[Place]:
        """Where the memory lies that only the optimizers' `step` changes: their parameters and their state."""
        found: set[Place] = set()
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                found.update(place_of(parameter) for parameter in group["params"] if _strided(parameter))
            for state in optimizer.state.values():
                found.update(place_of(value) for value in state.values() if _strided(value))
        return found

    def lacking(self, names: list[str], *, strict: bool) -> list[str]:
        """The components of the run that a commit with `names` lacks. Raises `InvalidInput` where `strict`."""
        lacking = [name for name in self.parts if name not in names]
        if lacking and strict:
            raise InvalidInput(
                f"the commit has no component {', '.join(map(repr, lacking))}, which the run tracks",
                why=f"it has {', '.join(names)}",
                hint=nearest(lacking[0], names) or "resume(strict=False) begins with what is there",
            )
        return lacking

    def fit(self, states: Mapping[str, object], *, strict: bool) -> LoadReport:
        """Raise `InvalidInput` unless the states of components fit; nothing is touched."""
        targets, found = self._targets(states)
        return check(targets, found, strict=strict)

    def put(self, states: Mapping[str, object], *, strict: bool) -> None:
        """Hand every state to its object. `fit` has passed."""
        targets, found = self._targets(states)
        put(targets, found, strict=strict)
        for path, leaf in self.leaves.items():
            if isinstance(leaf, _GENERATORS) and path.partition(".")[0] in states:
                _set_generator(leaf, _at(states, path))

    def _targets(self, states: Mapping[str, object]) -> tuple[dict[str, object], dict[str, object]]:
        targets = {
            path: leaf
            for path, leaf in self.leaves.items()
            if not isinstance(leaf, _GENERATORS) and path.partition(".")[0] in states
        }
        return targets, {path: _at(states, path) for path in targets}


def _unwrapped(part: object) -> object:
    if isinstance(part, dict):
        return {name: _unwrapped(item) for name, item in part.items()}
    if isinstance(part, (list, tuple)):
        return [_unwrapped(item) for item in part]
    if isinstance(part, torch.nn.parallel.DistributedDataParallel):
        return _unwrapped(part.module)
    if isinstance(part, torch.nn.Module) and isinstance(
        vars(part).get("_modules", {}).get("_orig_mod"), torch.nn.Module
    ):
        return _unwrapped(part._orig_mod)
    return part


def _leaves(path: str, part: object) -> Iterator[tuple[str, Any]]:
    if isinstance(part, dict):
        for name, item in part.items():
            yield from _leaves(f"{path}.{name}", item)
    elif isinstance(part, list):
        for number, item in enumerate(part):
            yield from _leaves(f"{path}.{number}", item)
    else:
        yield path, part


def _check_leaf(path: str, leaf: object) -> None:
    if isinstance(leaf, _GENERATORS) or (hasattr(leaf, "state_dict") and hasattr(leaf, "load_state_dict")):
        return
    raise InvalidInput(
        f"{path} is a {type(leaf).__qualname__}, which has no state_dict and load_state_dict",
        hint="give it both; plain values belong in config=, or in commit(extra=...)",
    )


def _at(states: Mapping[str, object], path: str) -> Any:
    """The state of a leaf. Raises `InvalidInput` where the component has another shape."""
    found: Any = states
    for step in path.split(".") if path not in states else [path]:
        try:
            found = found[int(step)] if isinstance(found, list) else found[step]
        except (KeyError, IndexError, ValueError, TypeError):
            raise InvalidInput(
                f"the commit has nothing for {path}", hint="it was made by a run with other parts: resume(strict=False)"
            ) from None
    return found


def _set_generator(live: Any, stored: Any) -> None:
    if isinstance(live, torch.Generator):
        live.set_state(stored.get_state())
    elif isinstance(live, random.Random):
        live.setstate(stored.getstate())
    elif isinstance(live, np.random.Generator):
        live.bit_generator.state = stored.bit_generator.state
    else:
        live.set_state(stored.get_state(legacy=False))


def _strided(value: object) -> bool:
    return (
        isinstance(value, torch.Tensor) and value.layout is torch.strided and not hasattr(value, "__tensor_flatten__")
    )
