"""`python -m tests.folders.dcp_ranks FOLDER`: a checkpoint that two ranks save together, with sharded tensors."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.checkpoint.state_dict_saver import save as save_checkpoint
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from torch.multiprocessing.spawn import start_processes

RANKS = 2


def save(rank: int, folder: str) -> None:
    meeting = Path(folder).with_suffix(".meeting").absolute()
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=RANKS)
    torch.manual_seed(0)
    mesh = init_device_mesh("cpu", (RANKS,))
    model = torch.nn.Sequential(torch.nn.Linear(300, 101), torch.nn.Tanh(), torch.nn.Linear(101, 1))
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(4, 300)).sum().backward()
        optimizer.step()
    weights, moments = get_state_dict(model, optimizer)
    columns = distribute_tensor(torch.arange(600.0).reshape(20, 30), mesh, [Shard(1)])
    state = {
        "model": weights,
        "optimizer": moments,
        "columns": columns,
        "replicated": torch.arange(50_000, dtype=torch.int64),
        "rank": {str(rank): torch.full((3,), float(rank))},
        "step": 2,
    }
    save_checkpoint(state, checkpoint_id=folder)
    dist.destroy_process_group()


if __name__ == "__main__":
    start_processes(save, (sys.argv[1],), nprocs=RANKS, start_method="fork")  # type: ignore[no-untyped-call]
