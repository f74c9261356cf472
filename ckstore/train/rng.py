"""The global generators that a training draws from: python's, numpy's, torch's on the CPU and on every CUDA device."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from ckstore.errors import InvalidInput


def capture_rng() -> dict[str, Any]:
    """The state of every global generator, for `restore_rng`. Draws nothing.

    A CUDA device's generator is only asked for where CUDA is in use already.
    """
    state: dict[str, Any] = {
        "python": _python_state(),
        "numpy": np.random.get_state(legacy=False),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def _python_state() -> tuple[int, np.ndarray[Any, np.dtype[np.uint32]], float | None]:
    """Python's own state, its words as one array."""
    version, words, gauss = random.getstate()
    return version, np.array(words, np.uint32), gauss


def restore_rng(state: dict[str, Any]) -> None:
    """Put every global generator to where `capture_rng` found it.

    States of more CUDA devices than there are, are refused. Raises `InvalidInput` before anything is changed.
    """
    missing = [name for name in ("python", "numpy", "torch") if name not in state]
    if missing:
        raise InvalidInput(f"the state of random generators lacks {', '.join(missing)}")
    cuda = state.get("cuda", [])
    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if len(cuda) > devices:
        raise InvalidInput(
            f"the state has generators of {len(cuda)} CUDA devices, and there are {devices}",
            hint="resume on as many devices, or restore the others: restore_rng({**state, 'cuda': []})",
        )
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    for device, one in enumerate(cuda):
        torch.cuda.set_rng_state(one, device)
