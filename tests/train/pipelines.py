"""Data of every kind that a run may be given, made anew each time: two calls give equal and separate objects."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
    get_worker_info,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

N = 11
SHARED = random.Random(8)


class Plain(Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([index, index * index])


class Augmented(Plain):
    """Draws from every global generator for each item, from one of the module and from some of its own."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(5)
        self.transforms = [Jitter()]
        self.late: random.Random | None = None
        self.calls = 0
        self.key: int | None = None

    def __getitem__(self, index: int) -> torch.Tensor:
        self.key = index  # of nothing that a new process would have
        if self.late is None:
            self.late = random.Random(get_worker_info().seed if get_worker_info() else 9)  # type: ignore[union-attr]
        self.calls += 1
        info = get_worker_info()
        drawn = [random.random(), np.random.rand(), float(torch.rand(())), self.rng.random(), self.late.random()]
        return torch.tensor([index, SHARED.random(), info.id if info else -1, *self.transforms[0](drawn)])


class Drawn(Plain):
    """Draws from the global generators. (torch cannot send a torch.Generator to a spawned worker.)"""

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([index, random.random(), np.random.rand(), float(torch.rand(()))])


class Jitter:
    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(3)

    def __call__(self, values: list[float]) -> list[float]:
        return [*values, float(torch.rand((), generator=self.generator))]


class Counted(Plain):
    """Says itself how often it was asked."""

    def __init__(self) -> None:
        self.seen: dict[str, list[int]] = {"asked": [0]}

    def __getitem__(self, index: int) -> torch.Tensor:
        self.seen["asked"][0] += 1
        return torch.tensor([index, self.seen["asked"][0]])

    def state_dict(self) -> dict[str, Any]:
        return self.seen

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = state


class Drawing(Sampler[int]):
    """Takes one of those left whenever it is asked, by a global generator: its order is that of all draws."""

    def __init__(self, draw: Callable[[int], int]) -> None:
        self.draw = draw

    def __iter__(self) -> Iterator[int]:
        left = list(range(N))
        while left:
            yield left.pop(self.draw(len(left)))

    def __len__(self) -> int:
        return N


class Reshuffling(Sampler[int]):
    """Shuffles the same list at the beginning of each epoch, and counts its epochs."""

    def __init__(self) -> None:
        self.order = list(range(N))
        self.epochs = 0

    def __iter__(self) -> Iterator[int]:
        self.epochs += 1
        np.random.shuffle(self.order)
        return iter([(index + self.epochs) % N for index in self.order])

    def __len__(self) -> int:
        return N


def _python(n: int) -> int:
    return random.randrange(n)


def _numpy(n: int) -> int:
    return int(np.random.randint(n))


def _torch(n: int) -> int:
    return int(torch.randint(n, ()))


class Stream(IterableDataset[torch.Tensor]):
    """A shuffle buffer over numbers, that draws from python's generator; each worker has a share of its own length."""

    def __init__(self) -> None:
        self.epoch = 0

    def __iter__(self) -> Iterator[torch.Tensor]:
        info = get_worker_info()
        share = range(30)[info.id :: info.num_workers + 1] if info else range(13)
        self.epoch += 1
        waiting: list[int] = []
        for number in share:
            waiting.append(number)
            if len(waiting) > 4:
                yield torch.tensor([waiting.pop(random.randrange(5)), self.epoch])
        random.shuffle(waiting)
        for number in waiting:
            yield torch.tensor([number, self.epoch])


class Remembering(IterableDataset[int]):
    """Keeps its place itself; must never be iterated from the front again."""

    def __init__(self) -> None:
        self.position = 0
        self.loads: list[int] = []

    def __iter__(self) -> Iterator[int]:
        while self.position < N:
            self.loads.append(self.position)
            self.position += 1
            yield self.position * 7
        self.position = 0

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


class Finishing(Remembering):
    """After `load_state_dict` at its end it ends once more, as StatefulDataLoader does (torchdata #1437)."""

    ended = False

    def __iter__(self) -> Iterator[int]:
        self.position %= N
        if self.ended:
            self.ended = False
            return
        while self.position < N:
            self.position += 1
            yield self.position * 7

    def load_state_dict(self, state: dict[str, int]) -> None:
        super().load_state_dict(state)
        self.ended = self.position == N


class OnceRemembering:
    """An iterator with a state of its own."""

    def __init__(self) -> None:
        self.number = 0

    def __iter__(self) -> OnceRemembering:
        return self

    def __next__(self) -> int:
        self.number += 1
        if self.number % 6 == 0:
            raise StopIteration
        return self.number

    def state_dict(self) -> dict[str, int]:
        return {"number": self.number}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.number = state["number"]


class Shuffled:
    """No loader: iterated again and again, each time in another order."""

    def __iter__(self) -> Iterator[dict[str, int]]:
        for number in torch.randperm(7).tolist():
            yield {"number": number, "drawn": random.randrange(100)}

    def __len__(self) -> int:
        return 7


class Ahead(DataLoader[torch.Tensor]):
    """Fetches one batch ahead, as accelerate's loaders do."""

    def __iter__(self) -> Iterator[torch.Tensor]:  # type: ignore[override]
        batches = super().__iter__()
        held = next(batches)
        for batch in batches:
            yield held
            held = batch
        yield held


def seeded(worker: int) -> None:
    """A worker_init_fn that draws."""
    np.random.seed((torch.initial_seed() + worker) % 2**32)


def paired(items: list[torch.Tensor]) -> tuple[torch.Tensor, float]:
    """A collate_fn that draws."""
    return torch.stack(items), random.random()


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(77)


def closing() -> Callable[[list[torch.Tensor]], tuple[torch.Tensor, float]]:
    own = random.Random(4)

    def collate(items: list[torch.Tensor]) -> tuple[torch.Tensor, float]:
        return torch.stack(items), own.random()

    return collate


def _shared() -> DataLoader[torch.Tensor]:
    one = generator()
    sampler = RandomSampler(range(N), replacement=True, num_samples=70, generator=one)
    return DataLoader(Plain(), sampler=sampler, batch_size=9, generator=one)


def _distributed(dataset: Dataset[torch.Tensor]) -> DistributedSampler[torch.Tensor]:
    return DistributedSampler(dataset, num_replicas=2, rank=1, shuffle=True)


LOADERS: dict[str, Callable[[], object]] = {
    "in order": lambda: DataLoader(Plain(), batch_size=3),
    "shuffled": lambda: DataLoader(Plain(), batch_size=3, shuffle=True),
    "drop_last": lambda: DataLoader(Plain(), batch_size=3, shuffle=True, drop_last=True),
    "generator": lambda: DataLoader(Plain(), batch_size=3, shuffle=True, generator=generator()),
    "augmented": lambda: DataLoader(Augmented(), batch_size=3, shuffle=True),
    "counted": lambda: DataLoader(Counted(), batch_size=3, shuffle=True),
    "single": lambda: DataLoader(Augmented(), batch_size=None, shuffle=True),
    "replacement": lambda: DataLoader(
        Plain(), sampler=RandomSampler(range(N), replacement=True, num_samples=70), batch_size=9
    ),
    "several rounds": lambda: DataLoader(Plain(), sampler=RandomSampler(range(N), num_samples=25), batch_size=4),
    "shared generator": _shared,
    "subset": lambda: DataLoader(
        Subset(Augmented(), range(2, 10)), sampler=SubsetRandomSampler(range(8)), batch_size=3
    ),
    "weighted": lambda: DataLoader(Plain(), sampler=WeightedRandomSampler([1.0, 2, 3] * 3, 10), batch_size=3),
    "distributed": lambda: DataLoader(Plain(), sampler=_distributed(Plain()), batch_size=2),
    "batch sampler": lambda: DataLoader(Plain(), batch_sampler=BatchSampler(Drawing(_python), 3, drop_last=False)),
    "drawing python": lambda: DataLoader(Augmented(), sampler=Drawing(_python), batch_size=3),
    "drawing numpy": lambda: DataLoader(Augmented(), sampler=Drawing(_numpy), batch_size=3),
    "drawing torch": lambda: DataLoader(Augmented(), sampler=Drawing(_torch), batch_size=3),
    "reshuffling": lambda: DataLoader(Plain(), sampler=Reshuffling(), batch_size=3),
    "collate": lambda: DataLoader(Augmented(), batch_size=4, shuffle=True, collate_fn=paired),
    "ahead": lambda: Ahead(Augmented(), batch_size=2, sampler=Drawing(_python)),
    "closure": lambda: DataLoader(Plain(), batch_size=4, collate_fn=closing()),
}

STREAMS: dict[str, Callable[[], object]] = {
    "stream": lambda: DataLoader(Stream(), batch_size=3),
    "stream drop_last": lambda: DataLoader(Stream(), batch_size=3, drop_last=True),
    "stream single": lambda: DataLoader(Stream(), batch_size=None),
    "remembering": lambda: DataLoader(Remembering(), batch_size=3),
    "remembering alone": Remembering,
    "finishing": lambda: DataLoader(Finishing(), batch_size=3),
    "once": OnceRemembering,
    "list": lambda: [3, 1, 4, 1, 5],
    "text": lambda: "hello",
    "again": Shuffled,
    "stream alone": Stream,
}


def workers(context: str = "fork", **options: Any) -> DataLoader[torch.Tensor]:
    """Two workers that draw, forked also where Python would spawn them: `Augmented` cannot be sent."""
    chosen: dict[str, Any] = {"dataset": Augmented(), "batch_size": 2, "num_workers": 2, "shuffle": True, **options}
    return DataLoader(multiprocessing_context=context, **chosen)


WORKERS: dict[str, Callable[[], object]] = {
    "fork": workers,
    "persistent": lambda: workers(persistent_workers=True, generator=generator()),
    "single": lambda: workers(batch_size=None, dataset=Subset(Augmented(), range(5))),
    "functions": lambda: workers(worker_init_fn=seeded, collate_fn=paired, prefetch_factor=1),
    "drawing": lambda: workers(sampler=Drawing(_torch), shuffle=None),
    "stream": lambda: workers(dataset=Stream(), shuffle=None),
    "ahead": lambda: Ahead(
        Augmented(),
        batch_size=1,
        sampler=Drawing(_torch),
        num_workers=2,
        prefetch_factor=1,
        multiprocessing_context="fork",
    ),
}

CONTEXTS: dict[str, Callable[[], object]] = {
    "spawn": lambda: workers("spawn", dataset=Drawn(), worker_init_fn=seeded, collate_fn=paired),
    "forkserver": lambda: workers("forkserver", dataset=Drawn()),
}
