"""What a model says its tensors must be: from a module, a mapping, or a factory of one of these."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

import torch
from torch.nn.parameter import is_lazy

from ckstore.errors import InvalidInput
from ckstore.torch.tensors import NAMES

if TYPE_CHECKING:
    from collections.abc import Callable

Layouts = dict[str, tuple[tuple[int, ...], str]]
"""Shape and dtype by name."""


def expected_tensors(of: object) -> Layouts:
    """Shapes and dtypes of the tensors of a module's state dict, of a mapping, or of what a factory returns.

    A factory takes no arguments; torch's random numbers on the CPU go on as if it had not been called. Raises
    `InvalidInput`.
    """
    if not isinstance(of, (torch.nn.Module, Mapping)):
        of = _made(of)
    if isinstance(of, torch.nn.Module):
        of = of.state_dict()
    if not isinstance(of, Mapping):
        what = f"a {type(of).__qualname__} says nothing of tensors"
        raise InvalidInput(what, hint="give a module, a mapping of names to tensors, or a function that returns one")
    tensors = {str(name): value for name, value in of.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise InvalidInput("there is no tensor to compare with", hint="give a module, or its state_dict()")
    return {name: _layout(name, value) for name, value in tensors.items()}


def factory_named(place: str) -> Callable[[], object]:
    """The factory at `package.module:factory`. Raises `InvalidInput`, whatever its module raises."""
    module, colon, name = place.partition(":")
    if not (colon and module and name):
        raise InvalidInput(f"{place!r} names no factory", hint="write it as package.module:factory")
    try:
        found: object = import_module(module)
    except (Exception, SystemExit) as error:
        raise InvalidInput(
            f"{module} cannot be imported",
            why=f"{type(error).__name__}: {error}",
            hint="write it as package.module:factory; the current folder is looked at too",
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise InvalidInput(f"{module} has no {name}", hint="write it as package.module:factory")
        found = getattr(found, part)
    if not callable(found):
        raise InvalidInput(f"{place} cannot be called", hint="name a function without arguments that returns a model")
    return found


def _made(factory: object) -> object:
    if not callable(factory):
        return factory
    try:
        with torch.random.fork_rng(devices=[]):
            made: object = factory()
    except (Exception, SystemExit) as error:
        name = getattr(factory, "__qualname__", type(factory).__qualname__)
        raise InvalidInput(
            f"the factory {name} raised {type(error).__name__}",
            why=str(error) or None,
            hint="it is called without arguments, and returns a module or a mapping of names to tensors",
        ) from error
    return made


def _layout(name: str, tensor: torch.Tensor) -> tuple[tuple[int, ...], str]:
    if is_lazy(tensor):
        raise InvalidInput(f"{name} has no shape yet", hint="run the model once on some input first")
    return tuple(tensor.shape), NAMES[tensor.dtype]
