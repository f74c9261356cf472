"""What there is to say of live objects and states, by path: short texts that are equal where every bit is."""

from __future__ import annotations

import pickle
import random
from typing import Any

import numpy as np
import torch
from blake3 import blake3

Facts = dict[str, str]
"""By dotted path what is there. A tensor: dtype, shape and digest, and its values where they are few."""

_FEW = 4
_MANY = 64


def facts(path: str, value: object) -> Facts:
    """Everything in `value`, which is not changed and from whose generators nothing is drawn."""
    found: Facts = {}
    _add(found, path, value)
    return found


def _add(found: Facts, path: str, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        _add_tensor(found, path, value)
    elif isinstance(value, np.ndarray):
        found[path] = _array(value)
    elif isinstance(value, torch.nn.Module):
        _add_module(found, path, value)
    elif isinstance(value, torch.Generator):
        _add(found, path, value.get_state())
    elif isinstance(value, random.Random):
        _add(found, path, value.getstate())
    elif isinstance(value, np.random.Generator):
        _add(found, path, value.bit_generator.state)
    elif isinstance(value, np.random.RandomState):
        _add(found, path, value.get_state(legacy=False))
    elif isinstance(value, dict):
        _add_each(found, path, value, dict(value))
    elif isinstance(value, (list, tuple)):
        _add_each(found, path, value, dict(enumerate(value)))
    elif not isinstance(value, type) and hasattr(value, "state_dict") and hasattr(value, "load_state_dict"):
        _add(found, path, value.state_dict())
    else:
        found[path] = _plain(value)


def _add_each(found: Facts, path: str, whole: object, items: dict[Any, Any]) -> None:
    if not items:
        found[path] = repr(whole)
    elif len(items) > _MANY and all(isinstance(item, (int, float, str, bytes)) for item in items.values()):
        found[path] = f"{type(whole).__name__} of {len(items)} {_digest(repr(whole).encode())}"
    else:
        for name, item in items.items():
            _add(found, f"{path}.{name}", item)


def _add_module(found: Facts, path: str, module: torch.nn.Module) -> None:
    """Its state dict, and what that leaves out: buffers that do not persist, and flags."""
    _add(found, path, module.state_dict())
    for name, buffer in module.named_buffers():
        _add(found, f"{path}.{name}", buffer)
    for name, parameter in module.named_parameters():
        found[f"{path}.{name}.requires_grad"] = str(parameter.requires_grad)
    for name, part in module.named_modules():
        found[".".join(filter(None, (path, name, "training")))] = str(part.training)


def _add_tensor(found: Facts, path: str, tensor: torch.Tensor) -> None:
    plain = tensor.detach()
    if plain.layout is torch.sparse_coo:
        _add(found, f"{path}.indices", plain._indices())
        _add(found, f"{path}.values", plain._values())
        return
    if plain.layout is not torch.strided:
        plain = plain.to_dense()
    told = str(plain.dtype).removeprefix("torch.")
    data = plain.resolve_conj().resolve_neg().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    values = f" {plain.tolist()}" if plain.numel() <= _FEW else ""
    found[path] = f"{told}{list(plain.shape)} {_digest(data)}{values}"


def _array(array: np.ndarray[Any, Any]) -> str:
    if array.dtype.hasobject:
        return _plain(array)
    values = f" {array.tolist()}" if array.size <= _FEW else ""
    return f"{array.dtype}{list(array.shape)} {_digest(np.ascontiguousarray(array).tobytes())}{values}"


def _plain(value: object) -> str:
    """Plain values as they are written, others by what pickle makes of them."""
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        told = repr(value)
        return told if len(told) <= 200 else f"{told[:100]}... {_digest(told.encode())}"
    try:
        return f"{type(value).__qualname__} {_digest(pickle.dumps(value, protocol=4))}"
    except Exception:  # whatever its own __reduce__ raises: then it has to do with its name
        return f"a {type(value).__qualname__}"


def _digest(data: Any) -> str:
    return str(blake3(data).hexdigest()[:16])
