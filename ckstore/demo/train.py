"""The demo's training script: `python -m ckstore.demo.train REPO --branch B --steps N`.

It goes on from the branch's newest commit if there is one, and prints a line of JSON for every commit.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import torch
from torch.nn import functional

import ckstore
from ckstore.demo.model import CONTEXT, Transformer, corpus

_BATCH = 8


def main() -> None:
    """Train from the branch's last commit, or from `--start`, or from nothing, up to `--steps`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("repo")
    parser.add_argument("--branch", default="main")
    parser.add_argument("--start", help="revision a new branch starts from")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--lr", type=float, default=1e-3)
    asked = parser.parse_args()

    torch.manual_seed(0)
    model = Transformer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=asked.lr)
    batches = torch.Generator().manual_seed(0)
    repo = ckstore.open(asked.repo)

    parent = asked.branch if asked.branch in repo.branches else asked.start
    step = 0
    if parent is not None:
        checkpoint = repo[parent]
        checkpoint.load(into={"model": model, "optimizer": optimizer})
        rng = checkpoint["rng"].load()
        torch.set_rng_state(rng["torch"])
        batches.set_state(rng["batches"])
        step = checkpoint.info.step or 0
        for group in optimizer.param_groups:
            group["lr"] = asked.lr

    data = corpus()
    while step < asked.steps:
        step += 1
        loss = train_step(model, optimizer, data, batches)
        if step % asked.every == 0 or step == asked.steps:
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "rng": {"torch": torch.get_rng_state(), "batches": batches.get_state()},
            }
            began = time.perf_counter()
            result = repo.commit(
                state,
                step=step,
                metrics={"loss": loss},
                branch=asked.branch,
                parent=parent if asked.branch not in repo.branches else None,
            )
            told = {"step": step, "id": result.id, "loss": loss, "seconds": time.perf_counter() - began}
            print(json.dumps(told | {"raw": result.raw_bytes, "stored": result.pack_bytes}), flush=True)
    print(json.dumps({"exact": same_bits(repo[asked.branch].load(), model, optimizer)}), flush=True)


def train_step(
    model: Transformer, optimizer: torch.optim.Optimizer, data: torch.Tensor, batches: torch.Generator
) -> float:
    """One step on a random batch; the loss before it."""
    starts = torch.randint(len(data) - CONTEXT - 1, (_BATCH,), generator=batches).tolist()
    inputs = torch.stack([data[i : i + CONTEXT] for i in starts])
    targets = torch.stack([data[i + 1 : i + CONTEXT + 1] for i in starts])
    loss = functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.item()


def same_bits(state: dict[str, Any], model: Transformer, optimizer: torch.optim.Optimizer) -> bool:
    """Whether a loaded state has exactly the bits of the live model and optimizer."""
    live = {"model": model.state_dict(), "optimizer": optimizer.state_dict()["state"]}
    stored = {"model": state["model"], "optimizer": state["optimizer"]["state"]}
    return bool(_tensors(live) == _tensors(stored))


def _tensors(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tensors(item) for key, item in value.items()}
    if isinstance(value, torch.Tensor):
        return value.reshape(-1).view(torch.uint8).numpy().tobytes()
    return value


if __name__ == "__main__":
    main()
