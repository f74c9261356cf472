"""What a run ran on: the versions and machines that results can depend on."""

from __future__ import annotations

import platform
import socket
from typing import Any

import numpy as np
import torch

DECIDING = ("torch", "numpy", "machine", "devices", "threads", "deterministic")
"""Where these differ, a resumed run may differ in its last bits."""


def environment(version: str) -> dict[str, Any]:
    """Plain values; `version` is ckstore's."""
    cuda = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return {
        "ckstore": version,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": str(np.__version__),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "host": socket.gethostname(),
        "cuda": torch.version.cuda,
        "devices": [torch.cuda.get_device_name(one) for one in range(torch.cuda.device_count())] if cuda else [],
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What decides over bits and is not as it was, each as a line."""
    return [f"{name} was {then[name]}, is {now[name]}" for name in DECIDING if then.get(name, now[name]) != now[name]]
