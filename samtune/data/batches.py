"""Batches of a data set: the same global batch, bit for bit, for any number of workers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from samtune.data.augment import crop_and_mirror
from samtune.data.dataset import Dataset, Split
from samtune.data.hashing import fold, random_order
from samtune.spec.data import DataConfig

_SHUFFLE, _AUGMENT, _EXAMPLES = 1, 2, 3  # separate streams of random numbers


def steps_per_epoch(dataset: Dataset, *, batch_size: int) -> int:
    """How many full batches an epoch has; the incomplete last one is dropped, each epoch other examples.

    Raises:
        ValueError: there is not even one.
    """
    steps = len(dataset.train) // batch_size
    if steps == 0:
        raise ValueError(f"batch_size must not exceed the training examples ({batch_size} > {len(dataset.train)})")
    return steps


def train_batches(
    dataset: Dataset,
    config: DataConfig,
    *,
    batch_size: int,
    rank: int,
    num_workers: int,
    seed: int,
    epoch: int,
    device: torch.device,
) -> Iterator[tuple[Tensor, Tensor]]:
    """One worker's share of every batch of an epoch.

    The order of the examples is a function of (seed, epoch), their augmentation of (seed, epoch, example). Worker r
    takes the rows [r*b, (r+1)*b) of each global batch, b = batch_size / num_workers.

    Args:
        dataset: whose training split is read.
        config: says how to augment.
        batch_size: of the global batch, over all workers.
        rank, num_workers: this worker's place.
        seed: of the trial.
        epoch: counted from 0.
        device: where the batches are made.

    Yields:
        inputs float32 [b, C, H, W], normalised, and targets int64 [b], on the device.

    Raises:
        ValueError: the workers do not divide the batch, or a batch has more examples than the training split.
    """
    if batch_size % num_workers:
        raise ValueError(f"num_workers must divide batch_size ({num_workers} does not divide {batch_size})")
    steps = steps_per_epoch(dataset, batch_size=batch_size)
    share = batch_size // num_workers
    split = dataset.train
    order = random_order(fold(seed, epoch, _SHUFFLE), split.indices)
    mine = order[: steps * batch_size].view(steps, num_workers, share)[:, rank]
    return _train_batches(dataset, config, mine, fold(seed, epoch, _AUGMENT), device)


def _train_batches(
    dataset: Dataset, config: DataConfig, batches: Tensor, key: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    split, traits = dataset.train, dataset.traits
    normalise = Normalise(dataset, device)
    for positions in batches:
        rows = split.indices[positions]
        images = split.source.take(rows, device)
        if config.augmentation == "basic":
            indices = rows.to(device, non_blocking=True)
            padding = round(traits.shape[1] / 8)
            images = crop_and_mirror(images, indices, key, padding=padding, mirror=traits.mirror)
        yield normalise(images), split.labels[positions].to(device, non_blocking=True)


def eval_batches(
    dataset: Dataset, split: Split, *, batch_size: int, rank: int, num_workers: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """One worker's share of a split, as it is: over all workers, each example exactly once.

    Args:
        dataset: that the split is of.
        split: any number of examples; a worker's share may be empty.
        batch_size: examples of this worker in one batch; the last may have fewer.
        rank, num_workers: this worker's place.
        device: where the batches are made.

    Yields:
        inputs float32 [<= batch_size, C, H, W], normalised, and targets int64, on the device.
    """
    start, stop = len(split) * rank // num_workers, len(split) * (rank + 1) // num_workers
    normalise = Normalise(dataset, device)
    for first in range(start, stop, batch_size):
        chosen = slice(first, min(first + batch_size, stop))
        images = split.source.take(split.indices[chosen], device)
        yield normalise(images), split.labels[chosen].to(device, non_blocking=True)


def training_examples(
    dataset: Dataset, num_examples: int, *, device: torch.device, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Training examples as they are, without augmentation: the same on every rank.

    Args:
        dataset: whose training split is read.
        num_examples: how many, drawn at random by `seed`; all of them when there are no more.
        device: where the batch is made.
        seed: chooses the examples.

    Returns:
        inputs float32 [n, C, H, W], normalised, and targets int64 [n].
    """
    split = dataset.train
    positions = random_order(fold(seed, _EXAMPLES), split.indices)[:num_examples]
    images = split.source.take(split.indices[positions], device)
    return Normalise(dataset, device)(images), split.labels[positions].to(device)


class Normalise:
    """uint8 images to float32 of zero mean and unit variance per channel."""

    def __init__(self, dataset: Dataset, device: torch.device) -> None:
        mean = torch.tensor(dataset.mean, dtype=torch.float64)
        std = torch.tensor(dataset.std, dtype=torch.float64)
        std[std == 0] = 1  # a channel of one value everywhere
        self._scale = (1 / (255 * std)).float().view(-1, 1, 1).to(device)
        self._shift = (mean / std).float().view(-1, 1, 1).to(device)

    def __call__(self, images: Tensor) -> Tensor:
        # Two roundings, each an operation of its own: a fused one would make the bits depend on the batch's layout.
        return images.to(torch.float32).mul_(self._scale).sub_(self._shift)
