"""States into live objects: everything is checked before the first of them is touched."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.parameter import is_lazy

from ckstore.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_LIKE_PARAMETER = frozenset({"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer"})
"""What torch's optimizers keep in the shape of the parameter, whether or not they have begun."""


@dataclass(frozen=True)
class LoadReport:
    """Dotted paths that the target wanted and the commit lacks, and the other way round."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


def check(targets: Mapping[str, object], states: Mapping[str, object], *, strict: bool) -> LoadReport:
    """What would not be loaded. Raises `InvalidInput`: for it where `strict`, and always for what cannot fit."""
    missing: list[str] = []
    unexpected: list[str] = []
    misfits: list[str] = []
    for name, target in targets.items():
        if not (hasattr(target, "load_state_dict") and hasattr(target, "state_dict")):
            raise InvalidInput(
                f"into={name!r} is a {type(target).__qualname__}, which has no load_state_dict",
                hint="pass a module, an optimizer, a scheduler or the like; or load() and assign it yourself",
            )
        state = states[name]
        if isinstance(target, torch.nn.Module):
            _check_module(name, target, state, missing, unexpected, misfits)
        elif isinstance(target, torch.optim.Optimizer):
            _check_optimizer(name, target, state, misfits)
        else:
            _check_keys(name, target, state, missing, unexpected)
    if misfits:
        raise InvalidInput("the commit does not fit: " + "; ".join(misfits[:5]), why=_more(misfits))
    if strict and (missing or unexpected):
        told = [f"missing {path}" for path in missing] + [f"unexpected {path}" for path in unexpected]
        raise InvalidInput(
            "the commit and the target have different keys: " + ", ".join(told[:8]),
            why=_more(told, 8),
            hint="strict=False loads what both have and reports the rest",
        )
    return LoadReport(tuple(missing), tuple(unexpected))


def put(targets: Mapping[str, Any], states: Mapping[str, Any], *, strict: bool) -> None:
    """Hand every state to its target. `check` has passed."""
    for name, target in targets.items():
        state = states[name]
        if isinstance(target, torch.nn.Module):
            target.load_state_dict(state, strict=strict)
        elif isinstance(target, torch.optim.Optimizer):
            _put_optimizer(target, state)
        else:
            target.load_state_dict(state)


def _check_module(
    name: str, module: torch.nn.Module, state: object, missing: list[str], unexpected: list[str], misfits: list[str]
) -> None:
    if not isinstance(state, dict):
        misfits.append(f"{name} is a {type(state).__qualname__}, not a state dict")
        return
    own = module.state_dict()
    missing += [f"{name}.{key}" for key in own if key not in state]
    unexpected += [f"{name}.{key}" for key in state if key not in own]
    for key, mine in own.items():
        theirs = state.get(key)
        if not isinstance(mine, torch.Tensor) or key not in state:
            continue
        if not isinstance(theirs, torch.Tensor):
            misfits.append(f"{name}.{key} is a {type(theirs).__qualname__}, not a tensor")
        elif not is_lazy(mine) and mine.shape != theirs.shape:
            misfits.append(f"{name}.{key} has shape {tuple(theirs.shape)}, the target {tuple(mine.shape)}")


def _check_optimizer(name: str, optimizer: torch.optim.Optimizer, state: object, misfits: list[str]) -> None:
    groups = state.get("param_groups") if isinstance(state, dict) else None
    known = isinstance(groups, list) and all(isinstance(one, dict) and "params" in one for one in groups)
    if not (isinstance(state, dict) and known and isinstance(state.get("state"), dict)):
        misfits.append(f"{name} is no optimizer state dict")
        return
    theirs = [len(group["params"]) for group in state["param_groups"]]
    mine = [len(group["params"]) for group in optimizer.param_groups]
    if theirs != mine:
        misfits.append(f"{name} has parameter groups of {theirs} tensors, the target of {mine}")
        return
    for number, (stored, own) in enumerate(zip(state["param_groups"], optimizer.param_groups, strict=False)):
        # Schedulers add initial_lr and the like to a group, so that one may have more than the other.
        lacking = [key for key in optimizer.defaults if key in own and key not in stored]
        if lacking:
            misfits.append(
                f"{name}.param_groups.{number} lacks {', '.join(lacking)}: another kind of optimizer wrote it"
            )
    for number, parameter in _pairs(optimizer, state):
        for key, value in state["state"].get(number, {}).items():
            own = optimizer.state.get(parameter, {}).get(key)
            like = parameter if key in _LIKE_PARAMETER else own
            if isinstance(value, torch.Tensor) and isinstance(like, torch.Tensor) and value.shape != like.shape:
                misfits.append(f"{name}.state.{number}.{key} has shape {tuple(value.shape)}, not {tuple(like.shape)}")


def _check_keys(name: str, target: Any, state: object, missing: list[str], unexpected: list[str]) -> None:
    """Compare the top keys of anything else that has a state dict: schedulers, scalers, samplers."""
    own = target.state_dict()
    if isinstance(own, dict) and isinstance(state, dict):
        missing += [f"{name}.{key}" for key in own if key not in state]
        unexpected += [f"{name}.{key}" for key in state if key not in own]


def _pairs(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> Iterator[tuple[Any, torch.Tensor]]:
    """The number a state dict gives each parameter, and the parameter."""
    numbers = (number for group in state["param_groups"] for number in group["params"])
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    yield from zip(numbers, parameters, strict=True)


def _put_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load, then give the moments their own dtype back: torch casts them to their parameter's."""
    optimizer.load_state_dict(copy.copy(state))
    for number, parameter in _pairs(optimizer, state):
        for key, value in state["state"].get(number, {}).items():
            loaded = optimizer.state[parameter].get(key)
            if isinstance(value, torch.Tensor) and isinstance(loaded, torch.Tensor) and loaded.dtype != value.dtype:
                optimizer.state[parameter][key] = value.to(device=loaded.device, copy=True)


def _more(told: list[str], shown: int = 5) -> str | None:
    return f"and {len(told) - shown} more" if len(told) > shown else None
