"""Small trainings of many kinds: functions for fresh processes, in which everything is built anew."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset
from torchdata.stateful_dataloader import StatefulDataLoader  # type: ignore[import-untyped]

import ckstore
from tests.train.bugs import BUGS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ckstore.api.repo import Repo

STEPS = 12
N = 14


class Rows(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Rows that are augmented by every global generator."""

    def __init__(self) -> None:
        self.rows = torch.randn(N, 6, generator=torch.Generator().manual_seed(3))

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        row = self.rows[index]
        noise = random.random() + np.random.rand() + float(torch.rand(()))
        return row + 0.1 * noise, row.sum().reshape(1)


def seeded() -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    torch.set_num_threads(1)


def net(*extra: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), *extra, nn.Linear(8, 1))


def loader(**options: Any) -> DataLoader[Any]:
    return DataLoader(Rows(), **{"batch_size": 3, "shuffle": True, **options})


def through(run: ckstore.Run, data: object, steps: int = STEPS) -> Iterator[tuple[int, Any]]:
    """Batches until so many steps are done, epoch after epoch."""
    while run.steps < steps:
        for step, batch in run.resume(data):
            yield step, batch
            if run.steps >= steps:
                return


def loss_of(model: nn.Module, batch: Any) -> Any:
    rows, targets = batch
    return functional.mse_loss(model(rows).float(), targets)


def dropout(repo: Repo) -> None:
    """Dropout, shuffled data, StepLR, AdamW in a for-loop, SGD with momentum beside it."""
    seeded()
    model, data = net(nn.Dropout(0.3)), loader()
    optimizer = torch.optim.AdamW(model[0].parameters(), lr=0.01, foreach=False)
    other = torch.optim.SGD(model[-1].parameters(), lr=0.01, momentum=0.9, nesterov=True)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    parts: dict[str, Any] = {"model": model, "optimizer": [optimizer, other], "scheduler": scheduler}
    with repo.track("dropout", **parts, data=data, every=ckstore.steps(2), busy="wait") as run:
        for _, batch in through(run, data):
            optimizer.zero_grad()
            other.zero_grad()
            loss = loss_of(model, batch)
            loss.backward()
            optimizer.step()
            other.step()
            scheduler.step()
            run.log({"loss": loss, "drawn": random.random() + np.random.rand()})
            run.step()


def autocast(repo: Repo) -> None:
    """Autocast to bf16, cosine, an average of weights, AdamW with foreach and fused."""
    seeded()
    model, data = net(nn.Dropout(0.1)), loader()
    optimizer = torch.optim.AdamW(model[0].parameters(), lr=0.01, foreach=True)
    other = torch.optim.AdamW(model[-1].parameters(), lr=0.01, fused=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 7)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))  # type: ignore[no-untyped-call]
    parts: dict[str, Any] = {
        "model": model,
        "optimizer": {"one": optimizer, "other": other},
        "scheduler": scheduler,
        "ema": ema,
    }
    with repo.track("autocast", **parts, data=data, every=ckstore.steps(3), busy="wait") as run:
        for _, batch in through(run, data):
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_of(model, batch)
            loss.backward()
            for one in (optimizer, other):
                one.step()
                one.zero_grad()
            scheduler.step()
            ema.update_parameters(model)
            run.log({"loss": loss.item()})
            run.step()


def workers(repo: Repo) -> None:
    """Two workers that augment, OneCycle."""
    seeded()
    model, data = net(), loader(num_workers=2, multiprocessing_context="fork")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=STEPS + 1)
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    with repo.track("workers", **parts, data=data, every=ckstore.steps(2), busy="wait") as run:
        for _, batch in through(run, data):
            optimizer.zero_grad()
            loss = loss_of(model, batch)
            loss.backward()
            optimizer.step()
            scheduler.step()
            run.log({"loss": loss})
            run.step()


def accumulation(repo: Repo) -> None:
    """Three batches a step of the optimizer, the gradients zeroed in each of the usual places and ways.

    The run counts batches, so that it is committed in mid-accumulation too.
    """
    seeded()
    kinds = [(place, none) for place in ("first", "last", "step") for none in (True, False)]
    models, data = [net(nn.Dropout(0.2)) for _ in kinds], loader()
    optimizers = [torch.optim.AdamW(model.parameters(), lr=0.01) for model in models]
    with repo.track(
        "accumulation", model=models, optimizer=optimizers, data=data, every=ckstore.steps(1), busy="wait"
    ) as run:
        for step, batch in through(run, data):
            for (place, none), model, optimizer in zip(kinds, models, optimizers, strict=True):
                if place == "first" and step % 3 == 1:
                    optimizer.zero_grad(set_to_none=none)
                (loss_of(model, batch) / 3).backward()
                if step % 3 == 0:
                    optimizer.step()
                    if place == "last":
                        optimizer.zero_grad(set_to_none=none)
                    elif place == "step":
                        model.zero_grad(set_to_none=none)
            run.step()


def grouped(repo: Repo) -> None:
    """Two batches a step, which the run counts once; frozen and tied weights, clipped gradients, no shuffling."""
    seeded()
    model, data = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Linear(6, 1)), loader(shuffle=False)
    model[2].weight = model[0].weight
    model[0].bias.requires_grad = False
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, amsgrad=True, weight_decay=0.1)
    with repo.track("grouped", model=model, optimizer=optimizer, data=data, every=ckstore.steps(2), busy="wait") as run:
        for number, (_, batch) in enumerate(through(run, data)):
            (loss_of(model, batch) / 2).backward()
            if number % 2:
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                optimizer.step()
                optimizer.zero_grad()
                run.step()
                if run.steps == 5:
                    model[0].bias.requires_grad = True


class Noisy(nn.Module):
    """A buffer that is no part of the state dict and steers the next step."""

    seen: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()), persistent=False)
        self.layer = nn.Linear(8, 8)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        self.seen += rows.detach().abs().mean()
        return torch.mul(self.layer(rows), 1 + self.seen)


def averaged(repo: Repo) -> None:
    """SWA, buffers persistent and not, one part at rest, an evaluation after each epoch, ReduceLROnPlateau."""
    seeded()
    model, data = net(nn.BatchNorm1d(8), Noisy(), nn.BatchNorm1d(8)), loader(drop_last=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.5)
    swa, swalr = AveragedModel(model), SWALR(optimizer, 0.005, anneal_epochs=2)
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "scheduler": [plateau, swalr], "ema": swa}
    with repo.track("averaged", **parts, data=data, every=ckstore.steps(2), busy="wait") as run:
        while run.steps < STEPS:
            for step, batch in run.resume(data):
                loss = loss_of(model, batch)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                run.log({"loss": loss})
                if step == 3:
                    model[2].eval()
                run.step()
            with run.evaluating(), torch.no_grad():
                model.eval()
                value = loss_of(model, next(iter(loader()))).item()
            plateau.step(value)
            if run.epoch > 1:
                swa.update_parameters(model)
                swalr.step()


class Halved(torch.optim.Optimizer):
    """Momentum in fp32 for parameters in bf16."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.01})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for one in group["params"]:
                state = self.state[one]
                state.setdefault("exp_avg", torch.zeros_like(one, dtype=torch.float32))
                state["exp_avg"].mul_(0.9).add_(one.grad.float(), alpha=0.1)
                one.copy_(one.float() - group["lr"] * state["exp_avg"])


def halved(repo: Repo) -> None:
    """A model in bf16 with moments in fp32; generators of its own; its own loop, without data of the run's."""
    seeded()
    model = net().bfloat16()
    optimizer = Halved(model.parameters())
    own = torch.Generator().manual_seed(4)
    others = [random.Random(5), np.random.default_rng(6)]
    with repo.track(
        "halved", model=model, optimizer=optimizer, own=own, others=others, every=ckstore.steps(2), busy="wait"
    ) as run:
        for _ in range(run.resume(), STEPS):
            rows = torch.randn(3, 6, generator=own) + others[0].random() + others[1].random()  # type: ignore[attr-defined]
            loss = loss_of(model, (rows.bfloat16(), rows.sum(1, keepdim=True)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log({"loss": loss})
            run.step()


def sparse(repo: Repo) -> None:
    """Two models against each other, two optimizers, one of them SparseAdam on an embedding."""
    seeded()
    table, judge = nn.Embedding(N, 6, sparse=True), net(nn.Dropout(0.1))
    optimizer, other = torch.optim.SparseAdam(table.parameters(), lr=0.05), torch.optim.Adam(judge.parameters())
    data: Any = DataLoader(range(N), batch_size=3, shuffle=True)  # type: ignore[arg-type]  # has len and []
    parts: dict[str, Any] = {
        "model": {"table": table, "judge": judge},
        "optimizer": {"table": optimizer, "judge": other},
    }
    with repo.track("sparse", **parts, data=data, every=ckstore.steps(1), busy="wait") as run:
        for step, numbers in through(run, data):
            first, second = (optimizer, other) if step % 2 else (other, optimizer)
            first.zero_grad()
            second.zero_grad()
            loss = judge(table(numbers)).square().mean()
            loss.backward()
            first.step()  # type: ignore[no-untyped-call]
            if step % 3:
                second.step()
            run.log({"loss": loss})
            run.step()


def scaled(repo: Repo) -> None:
    """A GradScaler that grows, overflows and skips steps."""
    seeded()
    model, data = net(), loader()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**13, growth_interval=2)
    with repo.track(
        "scaled", model=model, optimizer=optimizer, scaler=scaler, data=data, every=ckstore.steps(2), busy="wait"
    ) as run:
        for _, batch in through(run, data):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16):
                loss = loss_of(model, batch)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            run.log({"loss": loss, "scale": scaler.get_scale()})
            run.step()


def stateful(repo: Repo, workers: int = 0) -> None:
    """torchdata's loader, shuffled."""
    seeded()
    model = net(nn.Dropout(0.2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    context = "fork" if workers else None
    data = StatefulDataLoader(Rows(), batch_size=4, shuffle=True, num_workers=workers, multiprocessing_context=context)
    with repo.track(
        "stateful", model=model, optimizer=optimizer, data=data, every=ckstore.steps(2), busy="wait"
    ) as run:
        for _, batch in through(run, data):
            loss = loss_of(model, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log({"loss": loss})
            run.step()


def stateful_workers(repo: Repo) -> None:
    stateful(repo, 2)


def epochs(repo: Repo, every: str = "epochs") -> None:
    """A scheduler that steps after each epoch, which the commits that are due then are to hold."""
    seeded()
    model, data = net(), loader()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.9)
    trigger = {"epochs": ckstore.epochs(1) | ckstore.steps(4), "bests": ckstore.best("val", "min")}[every]
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "scheduler": plateau}
    with repo.track("epochs", **parts, data=data, every=trigger, busy="wait") as run:
        while run.steps < STEPS:
            for _, batch in run.resume(data):
                loss = loss_of(model, batch)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                run.step()
            with run.evaluating(), torch.no_grad():
                value = loss_of(model.eval(), next(iter(loader())))
            run.log({"val": value})
            plateau.step(value)


def bests(repo: Repo) -> None:
    epochs(repo, "bests")


TRAININGS: dict[str, Callable[[Repo], None]] = {
    one.__name__: one
    for one in (
        dropout, autocast, workers, accumulation, grouped, averaged, halved, sparse, scaled, stateful, stateful_workers,
        epochs, bests,
    )
}  # fmt: skip


def training(repo: Repo, name: str) -> None:
    TRAININGS[name](repo)


def broken(repo: Repo, name: str, bug: str) -> None:
    """A training with a bug in ckstore, in every process of it."""
    BUGS[bug]()
    TRAININGS[name](repo)
