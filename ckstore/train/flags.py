"""What modules are besides their state dicts: training or not, frozen or not, and buffers that are not persistent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def note_training(modules: Iterable[list[torch.nn.Module]]) -> dict[torch.nn.Module, bool]:
    """Which parts are training, of the modules that are; each is given with its parts, itself the first."""
    return {part: part.training for parts in modules if parts[0].training for part in parts}


def capture_flags(
    modules: Mapping[str, torch.nn.Module], training: Mapping[torch.nn.Module, bool] | None = None
) -> dict[str, Any]:
    """The flags of every module, by its path; in place of an evaluation's those of `training`, noted before it."""
    noted = {} if training is None else training
    return {
        path: {
            "eval": [
                name
                for name, part in module.named_modules()
                if not (part.training if module.training else noted.get(part, part.training))
            ],
            "frozen": [name for name, one in module.named_parameters() if not one.requires_grad],
            "buffers": dict(_passing_buffers(module)),
        }
        for path, module in modules.items()
    }


def restore_flags(modules: Mapping[str, torch.nn.Module], flags: Mapping[str, Any]) -> None:
    """Put flags back; modules and parameters that were not there then are left alone where nothing is known of them."""
    restore_training(modules, flags)
    for path, module in modules.items():
        known = flags.get(path)
        if known is None:
            continue
        frozen = set(known["frozen"])
        for name, one in module.named_parameters():
            one.requires_grad_(name not in frozen)
        for name, stored in known["buffers"].items():
            _put_buffer(module, name, stored)


def restore_training(modules: Mapping[str, torch.nn.Module], flags: Mapping[str, Any]) -> None:
    """Put the train/eval flags back alone."""
    for path, module in modules.items():
        resting = set(flags[path]["eval"]) if path in flags else None
        for name, part in module.named_modules():
            part.training = part.training if resting is None else name not in resting


def _passing_buffers(module: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    """The buffers that are no part of the state dict."""
    found = []
    for name, part in module.named_modules():
        for own in sorted(part._non_persistent_buffers_set):
            buffer = part._buffers.get(own)
            if buffer is not None:
                found.append((f"{name}.{own}" if name else own, buffer))
    return found


def _put_buffer(module: torch.nn.Module, path: str, stored: torch.Tensor) -> None:
    owner, _, name = path.rpartition(".")
    part = module.get_submodule(owner)
    live = part._buffers.get(name)
    if live is not None and live.shape == stored.shape and live.dtype == stored.dtype:
        with torch.no_grad():
            live.copy_(stored)
    elif live is not None:
        part._buffers[name] = stored.to(live.device)
