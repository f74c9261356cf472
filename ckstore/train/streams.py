"""One random generator's state as plain values: compact, comparable, and put back exactly."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from ckstore.errors import InvalidInput

Generator = random.Random | torch.Generator | np.random.Generator | np.random.RandomState

GENERATORS = (random.Random, torch.Generator, np.random.Generator, np.random.RandomState)

_PYTHON: random.Random = random._inst  # what random.random() and its like draw from

GLOBALS: dict[str, Generator] = {
    "python": _PYTHON,
    "numpy": np.random.mtrand._rand,
    "torch": torch.default_generator,
}
"""The generators that functions of modules draw from, on the CPU."""


def is_global(value: object) -> bool:
    return any(value is one for one in GLOBALS.values())


def stream_state(generator: Generator) -> dict[str, Any]:
    """Where `generator` stands, as plain values and numpy arrays that do not change with it."""
    if isinstance(generator, random.Random):
        version, words, gauss = generator.getstate()
        return {"kind": "python", "version": version, "words": np.array(words, np.uint32), "gauss": gauss}
    if isinstance(generator, torch.Generator):
        return {"kind": "torch", "device": str(generator.device), "state": generator.get_state().numpy().copy()}
    if isinstance(generator, np.random.Generator):
        return {"kind": "numpy", "state": dict(generator.bit_generator.state)}
    return {"kind": "numpy.legacy", "state": generator.get_state(legacy=False)}


def put_stream(generator: Generator, state: dict[str, Any]) -> None:
    """Put `generator` to where `stream_state` found one. Raises `InvalidInput` where it is of another kind."""
    try:
        if isinstance(generator, random.Random) and state["kind"] == "python":
            generator.setstate((state["version"], tuple(state["words"].tolist()), state["gauss"]))
        elif isinstance(generator, torch.Generator) and state["kind"] == "torch":
            generator.set_state(torch.from_numpy(state["state"].copy()))
        elif isinstance(generator, np.random.Generator) and state["kind"] == "numpy":
            generator.bit_generator.state = state["state"]
        elif isinstance(generator, np.random.RandomState) and state["kind"] == "numpy.legacy":
            generator.set_state(state["state"])
        else:
            raise InvalidInput(f"a {type(generator).__name__} cannot take the state of a {state['kind']} generator")
    except (ValueError, TypeError, RuntimeError) as error:
        raise InvalidInput(f"a {type(generator).__name__} does not take its state: {error}") from error


def made_stream(state: dict[str, Any]) -> Generator:
    """A new generator that stands where `state` says."""
    made: Generator
    if state["kind"] == "python":
        made = random.Random()
    elif state["kind"] == "torch":
        made = torch.Generator(state["device"])
    elif state["kind"] == "numpy":
        made = np.random.Generator(getattr(np.random, state["state"]["bit_generator"])())
    else:
        made = np.random.RandomState()
    put_stream(made, state)
    return made


def same_stream(left: object, right: object) -> bool:
    """Two states are equal."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same_stream(value, right[name]) for name, value in left.items())
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        return np.array_equal(left, right)
    return type(left) is type(right) and left == right
