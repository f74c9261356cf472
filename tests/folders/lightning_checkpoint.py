"""`python -m tests.folders.lightning_checkpoint FOLDER`: a Lightning checkpoint, with its callbacks' states."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from torch.utils.data import DataLoader


class Net(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters({"width": 200})
        self.net = torch.nn.Sequential(torch.nn.Linear(200, 200), torch.nn.ReLU(), torch.nn.Linear(200, 1))

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = self.net(batch).square().mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters())
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2)]


def main(folder: Path) -> None:
    pl.seed_everything(1, verbose=False)
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[EarlyStopping("loss"), ModelCheckpoint(folder, filename="best", monitor="loss", save_last=True)],
    )
    rows: DataLoader[torch.Tensor] = DataLoader(torch.randn(16, 200), batch_size=4)  # type: ignore[arg-type]
    trainer.fit(Net(), rows)
    trainer.save_checkpoint(folder / "final.ckpt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
