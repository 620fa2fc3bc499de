"""Batches for a training function: this worker's share of each, in an order that the trial's seed decides."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from samtune.errors import UsageError
from samtune.train.session import Place


class TrialLoader:
    """Goes through a data set once for each `for`, on the worker's device. `len` is the number of batches.

    For training a batch is split over the workers, rank r having the r-th part of it; the examples are shuffled by seed
    and epoch, the same for any number of workers, and those that fill no batch are left out. Else every worker goes
    through its own examples, in order, so that each example is seen once.

    Args:
        batch_size: examples over all workers.
        options: of the `torch.utils.data.DataLoader`.

    Attributes:
        epoch: decides about the order.
    """

    def __init__(
        self, dataset: Dataset[Any], batch_size: int, *, train: bool, seed: int, place: Place, options: dict[str, Any]
    ) -> None:
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
            kind = type(dataset).__name__
            raise UsageError(
                f"trial.loader takes a data set with a length (got {kind}): make a DataLoader of your own and split "
                "it by trial.rank and trial.num_workers"
            )
        if train and (batch_size % place.num_workers or batch_size > len(dataset)):
            raise UsageError(
                f"trial.loader: a batch must be a multiple of the {place.num_workers} workers, and at most the "
                f"{len(dataset)} examples (got {batch_size})"
            )
        self.dataset, self.batch_size, self.epoch, self._seed, self._place = dataset, batch_size, 0, seed, place
        sampler = _TrainSampler(self, place) if train else _EvalSampler(self, place)
        self._loader: DataLoader[Any] = DataLoader(dataset, batch_sampler=sampler, **options)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            yield moved(batch, self._place.device)

    def order(self, epoch: int) -> list[int]:
        """All positions of the data set, shuffled: the same on every rank."""
        generator = torch.Generator().manual_seed(seed_of(self._seed, epoch))
        order: list[int] = torch.randperm(len(self.dataset), generator=generator).tolist()
        return order

    def examples(self, num_examples: int) -> Any:
        """A batch of so many examples, drawn by the seed: the same on every rank."""
        positions = self.order(-1)[:num_examples]
        assert self._loader.collate_fn is not None
        return moved(self._loader.collate_fn([self.dataset[i] for i in positions]), self._place.device)


class _TrainSampler(Sampler[list[int]]):
    def __init__(self, loader: TrialLoader, place: Place) -> None:
        self._loader, self._place = loader, place

    def __len__(self) -> int:
        return len(self._loader.dataset) // self._loader.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        order, size = self._loader.order(self._loader.epoch), self._loader.batch_size
        share = size // self._place.num_workers
        for batch in range(len(self)):
            first = batch * size + self._place.rank * share
            yield order[first : first + share]


class _EvalSampler(Sampler[list[int]]):
    def __init__(self, loader: TrialLoader, place: Place) -> None:
        self._own = range(place.rank, len(loader.dataset), place.num_workers)
        self._share = max(1, loader.batch_size // place.num_workers)

    def __len__(self) -> int:
        return -(-len(self._own) // self._share)

    def __iter__(self) -> Iterator[list[int]]:
        for first in range(0, len(self._own), self._share):
            yield list(self._own[first : first + self._share])


def moved(batch: Any, device: torch.device) -> Any:
    """Nested tensors on the device; all else as it is."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {key: moved(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(moved(value, device) for value in batch))
    return type(batch)(moved(v, device) for v in batch) if isinstance(batch, list | tuple) else batch


def seed_of(*keys: int) -> int:
    """63 bits that depend on all the keys."""
    return int.from_bytes(hashlib.sha256(repr(keys).encode()).digest()[:8]) >> 1
