"""Gradients between two steps of an optimizer: needed where they are being accumulated, spent otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckstore.train.parts import Parts

ALL = "all"

_MARK = "_ckstore_spent"
"""The version that a gradient had when its optimizer had taken its step, as an attribute of the gradient."""


def mark_spent(optimizer: torch.optim.Optimizer) -> None:
    """Note that an optimizer has used the gradients as they are."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            gradient = parameter.grad
            if gradient is not None:
                setattr(gradient, _MARK, gradient._version)


def capture_gradients(parts: Parts) -> tuple[dict[str, Any], dict[str, str] | str]:
    """Gradients that no step has used yet, by path, and the layouts of those that are spent or zero.

    `ALL` stands for strided ones of everything that requires one. A spent gradient comes back as zeros: it matters only
    that it is there, since an optimizer skips those that are not.
    """
    waiting: dict[str, Any] = {}
    spent: dict[str, str] = {}
    everything = True
    for path, parameter in _parameters(parts):
        gradient = parameter.grad
        if gradient is None:
            everything = everything and not parameter.requires_grad
            continue
        everything = everything and parameter.requires_grad and gradient.layout is torch.strided
        if getattr(gradient, _MARK, None) == gradient._version or not _nonzero(gradient):
            spent[path] = str(gradient.layout).removeprefix("torch.")
        else:
            waiting[path] = gradient.detach()
    return waiting, ALL if everything and spent and not waiting else spent


def restore_gradients(parts: Parts, waiting: Mapping[str, torch.Tensor], spent: Mapping[str, str] | str) -> None:
    """Give parameters their gradients; those that had none have none."""
    if isinstance(spent, str):
        spent = {path: "strided" for path, parameter in _parameters(parts) if parameter.requires_grad}
    for path, parameter in _parameters(parts):
        if path in waiting:
            parameter.grad = waiting[path].to(parameter.device)
        elif path in spent:
            parameter.grad = torch.zeros_like(parameter) if spent[path] == "strided" else _empty_like(parameter)
        else:
            parameter.grad = None


def _parameters(parts: Parts) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Every parameter once: by its name in a module, or its number in an optimizer."""
    seen: set[int] = set()
    for path, module in parts.modules.items():
        for name, parameter in module.named_parameters():
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield f"{path}.{name}", parameter
    for path, optimizer in parts.optimizers.items():
        for number, parameter in enumerate(one for group in optimizer.param_groups for one in group["params"]):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield f"{path}.{number}", parameter


def _nonzero(gradient: torch.Tensor) -> bool:
    values = gradient._values() if gradient.layout is torch.sparse_coo else gradient
    return bool(values.any())


def _empty_like(parameter: torch.Tensor) -> torch.Tensor:
    return torch.sparse_coo_tensor(
        torch.empty((1, 0), dtype=torch.int64),
        torch.empty((0, *parameter.shape[1:]), dtype=parameter.dtype),
        parameter.shape,
        device=parameter.device,
    )
