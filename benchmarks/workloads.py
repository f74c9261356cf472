"""Real training trajectories on the CPU, each checkpoint a file: what sizes are measured on.

    python benchmarks/workloads.py [pretrain|bf16|frozen|branches|embed]...

Every trajectory is real optimisation: of a small transformer on the text of this Python's own standard library, or of
a recommender's embedding table on a stream of ids. A checkpoint is `{"model", "optimizer", "scheduler", "step",
"metrics"}`, written with torch.save under `$XDG_CACHE_HOME/ckstore-benchmarks`, once: later calls find it there.
`Large` trains models of at least 1.2 GB of state, for times.
"""

from __future__ import annotations

import itertools
import math
import os
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

State = dict[str, Any]
_DONE = "done"


def cache() -> Path:
    """Where trajectories are kept."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ckstore-benchmarks"


def corpus(limit: int = 8_000_000) -> torch.Tensor:
    """The standard library's text, a byte an element."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    text = b"".join(path.read_bytes() for path in sorted(stdlib.glob("*.py"), key=str))
    return torch.frombuffer(bytearray(text[:limit]), dtype=torch.uint8).long()


class Block(nn.Module):
    """Attention and a feed-forward layer."""

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
        self.heads = heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Activations of the same shape."""
        b, t, d = x.shape
        q, k, v = self.qkv(self.ln1(x)).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(attended.transpose(1, 2).reshape(b, t, d))
        y: torch.Tensor = x + self.down(functional.gelu(self.up(self.ln2(x))))
        return y


class GPT(nn.Module):
    """A byte-level transformer."""

    def __init__(self, d: int = 384, layers: int = 6, heads: int = 6, vocab: int = 256, ctx: int = 128) -> None:
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab, d), nn.Embedding(ctx, d)
        self.blocks = nn.ModuleList(Block(d, heads) for _ in range(layers))
        self.ln, self.head = nn.LayerNorm(d), nn.Linear(d, vocab, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits of the next byte."""
        x = self.tok(ids) + self.pos(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        y: torch.Tensor = self.head(self.ln(x))
        return y


def batches(
    data: torch.Tensor, size: int = 8, ctx: int = 128, seed: int = 0
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Windows of the text and the same windows one byte later."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        starts = torch.randint(len(data) - ctx - 1, (size,), generator=generator).tolist()
        yield (
            torch.stack([data[start : start + ctx] for start in starts]),
            torch.stack([data[start + 1 : start + ctx + 1] for start in starts]),
        )


def _loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(model(x).flatten(0, 1), y.flatten())


def _train(
    model: nn.Module,
    folder: Path,
    *,
    steps: int,
    every: int,
    lr: float = 3e-4,
    seed: int = 0,
    start: int = 0,
    shown: Callable[[State], State] = lambda state: state,
) -> None:
    """Train what requires a gradient; `shown` makes of the state what a checkpoint holds."""
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step, (x, y) in zip(range(1, steps + 1), batches(corpus(), seed=seed), strict=False):
        loss = _loss(model, x, y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scheduler.step()
        if step % every == 0:
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scheduler": scheduler.state_dict(),
                "step": start + step,
                "metrics": {"loss": loss.item()},
            }
            torch.save(shown(state), folder / f"step_{start + step:06d}.pt")
            print(f"{folder.name} step {step}: {loss.item():.3f}", file=sys.stderr, flush=True)


def _halved(state: State) -> State:
    return {**state, "model": {name: tensor.bfloat16() for name, tensor in state["model"].items()}}


def _weights_only(state: State) -> State:
    return {name: _halved(state)[name] for name in ("model", "step", "metrics")}


def _freeze_all_but_the_tail(model: GPT) -> None:
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for module in (model.blocks[-1], model.ln, model.head):
        module.requires_grad_(True)


def _pretrain(out: Path) -> None:
    torch.manual_seed(0)
    model = GPT()
    _train(model, out / "pretrain", steps=200, every=20)
    torch.save(model.state_dict(), out / "base.pt")


def _base(out: Path) -> GPT:
    trajectory("pretrain")
    torch.manual_seed(0)
    model = GPT()
    model.load_state_dict(torch.load(out / "base.pt"))
    return model


def _bf16(out: Path) -> None:
    """Training goes on; bf16 weights are kept in the file beside the fp32 Adam state."""
    _train(_base(out), out / "bf16", steps=80, every=10, lr=5e-5, seed=1, start=200, shown=_halved)


def _frozen(out: Path) -> None:
    """Head and last block only."""
    model = _base(out)
    _freeze_all_but_the_tail(model)
    _train(model, out / "frozen", steps=50, every=5, lr=1e-4, seed=2, start=200)


def _branches(out: Path) -> None:
    """Five full fine-tunes of one base, bf16 weights only."""
    for run in range(5):
        folder = out / f"branches/run{run}"
        _train(_base(out), folder, steps=30, every=30, lr=1e-5, seed=10 + run, start=200, shown=_weights_only)


def _embed(out: Path) -> None:
    """A recommender's table: few rows are touched in a step."""
    torch.manual_seed(0)
    folder = out / "embed"
    folder.mkdir(parents=True, exist_ok=True)
    table, top = nn.Embedding(200_000, 64, sparse=True), nn.Linear(64, 1)
    sparse, dense = torch.optim.SparseAdam(table.parameters()), torch.optim.Adam(top.parameters())
    generator = torch.Generator().manual_seed(3)
    for step in range(1, 101):
        ids = (torch.rand(256, 8, generator=generator) ** 4 * 200_000).long()
        wanted = (ids.sum(1) % 2).float()
        loss = functional.binary_cross_entropy_with_logits(top(table(ids).mean(1)).squeeze(1), wanted)
        for optimizer in (sparse, dense):
            optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in (sparse, dense):
            optimizer.step()  # type: ignore[no-untyped-call]
        if step % 10 == 0:
            state = {
                "model": {"emb": table.state_dict(), "top": top.state_dict()},
                "optimizer": [sparse.state_dict(), dense.state_dict()],
                "step": step,
                "metrics": {"loss": loss.item()},
            }
            torch.save(state, folder / f"step_{step:06d}.pt")


_MAKERS = {"pretrain": _pretrain, "bf16": _bf16, "frozen": _frozen, "branches": _branches, "embed": _embed}
NAMES = tuple(_MAKERS)


def trajectory(name: str) -> list[Path]:
    """The checkpoints of a trajectory in order; trains them if they are not there yet."""
    out = cache()
    marker = out / name / _DONE
    if not marker.exists():
        _MAKERS[name](out)
        marker.touch()
    return sorted((out / name).rglob("*.pt"))


class Large:
    """A model of at least 1.2 GB of state that is trained on between measurements: `dense`, `bf16` or `frozen`."""

    def __init__(self, kind: str) -> None:
        torch.manual_seed(0)
        self._kind = kind
        self._model = GPT(d=1024, layers={"dense": 8, "bf16": 10, "frozen": 24}[kind], heads=16)
        if kind == "frozen":
            _freeze_all_but_the_tail(self._model)
        self._parameters = [p for p in self._model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(self._parameters, lr=3e-4)
        self._batches = batches(corpus(), size=2, ctx=64)
        self._halves = {name: tensor.bfloat16() for name, tensor in self._model.state_dict().items()}

    def advance(self, steps: int) -> State:
        """The state after so many more steps. It shares the model's memory."""
        for x, y in itertools.islice(self._batches, steps):
            self._optimizer.zero_grad()
            _loss(self._model, x, y).backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
        weights = self._model.state_dict()
        if self._kind == "bf16":
            for name, tensor in weights.items():
                self._halves[name].copy_(tensor)
            weights = self._halves
        return {"model": dict(weights), "optimizer": self._optimizer.state_dict()}


def raw_bytes(state: object) -> int:
    """Bytes of all tensors in a state."""
    if isinstance(state, torch.Tensor):
        return math.prod(state.shape) * state.element_size()
    if isinstance(state, dict):
        return sum(map(raw_bytes, state.values()))
    return sum(map(raw_bytes, state)) if isinstance(state, (list, tuple)) else 0


if __name__ == "__main__":
    for asked in sys.argv[1:] or NAMES:
        print(asked, *trajectory(asked), sep="\n  ")
