"""`python -m tests.folders.accelerate_state FOLDER`: what `Accelerator.save_state` writes."""

from __future__ import annotations

import sys

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader


def main(folder: str) -> None:
    torch.manual_seed(3)
    accelerator = Accelerator(cpu=True)
    model = torch.nn.Sequential(torch.nn.Linear(200, 200), torch.nn.BatchNorm1d(200), torch.nn.Linear(200, 1))
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    rows: DataLoader[torch.Tensor] = DataLoader(torch.randn(8, 200), batch_size=4, shuffle=True)  # type: ignore[arg-type]
    model, optimizer, scheduler, rows = accelerator.prepare(model, optimizer, scheduler, rows)
    for batch in rows:
        optimizer.zero_grad()
        accelerator.backward(model(batch).square().mean())
        optimizer.step()
        scheduler.step()
    accelerator.save_state(folder)


if __name__ == "__main__":
    main(sys.argv[1])
