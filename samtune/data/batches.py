"""Batches of a data set: the same global batch, bit for bit, for any number of workers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from samtune.data.augment import crop_and_mirror, cutout, draw_boxes, mirror_half
from samtune.data.dataset import Dataset, Split
from samtune.data.hashing import fold, random_order
from samtune.data.image_ops import enlarge_boxes
from samtune.data.mixing import draw_mix
from samtune.data.policies import find_policy
from samtune.spec.data import DataConfig

# Separate streams of random numbers.
_SHUFFLE, _EXAMPLES, _CROP, _POLICY, _CUTOUT, _MIX, _PARTNERS = range(7)


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
        config: says how to augment and mix.
        batch_size: of the global batch, over all workers.
        rank, num_workers: this worker's place.
        seed: of the trial.
        epoch: counted from 0.
        device: where the batches are made.

    Yields:
        inputs float32 [b, C, H, W], normalised, and targets int64 [b], on the device; with Mixup or CutMix, targets
        are class probabilities, float32 [b, num_classes].

    Raises:
        ValueError: the workers do not divide the batch, or a batch has more examples than the training split.
    """
    if batch_size % num_workers:
        raise ValueError(f"num_workers must divide batch_size ({num_workers} does not divide {batch_size})")
    steps = steps_per_epoch(dataset, batch_size=batch_size)
    order = random_order(fold(seed, epoch, _SHUFFLE), dataset.train.indices)
    batches = order[: steps * batch_size].view(steps, batch_size)
    share = batch_size // num_workers
    return _train_batches(dataset, config, batches, slice(rank * share, (rank + 1) * share), fold(seed, epoch), device)


def _train_batches(
    dataset: Dataset, config: DataConfig, batches: Tensor, mine: slice, key: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    make = BatchMaker(dataset, config, key, device)
    for step, batch in enumerate(batches):
        inputs, targets = make(batch[mine])
        if config.mixup or config.cutmix:
            mix = draw_mix(config.mixup, config.cutmix, *dataset.input_shape[1:], key=fold(key, _MIX, step))
            partners = batch[random_order(fold(key, _PARTNERS, step), batch)]
            other_inputs, other_targets = make(partners[mine])
            targets = mix.targets(targets, other_targets, dataset.num_classes)
            inputs = mix.inputs(inputs, other_inputs)
        yield inputs, targets


class BatchMaker:
    """Takes training examples, augments and normalises them.

    Args:
        key: of seed and epoch.
    """

    def __init__(self, dataset: Dataset, config: DataConfig, key: int, device: torch.device) -> None:
        self._split, self._config, self._device = dataset.train, config, device
        self._normalise = Normalise(dataset, device)
        self._key = key
        self._mirror = dataset.traits.mirror
        height, width = dataset.input_shape[1:]
        self._padding = round(height / 8)
        self._policy = None
        if config.augmentation in ("autoaugment", "randaugment", "trivialaugment"):
            self._policy = find_policy(config.augmentation, dataset.traits.policy, height, width)

    def __call__(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs float32 [b, C, H, W] and targets int64 [b] of positions in the training split, int64 [b]."""
        rows = self._split.indices[positions]
        images = self._split.source.take(rows, self._device)
        indices = rows.to(self._device, non_blocking=True)
        key = fold(self._key, _CROP)
        if self._config.augmentation == "resized_crop":
            boxes = draw_boxes(rows, key, *images.shape[2:])
            images = enlarge_boxes(images, boxes.to(self._device, non_blocking=True))
            if self._mirror:
                images = mirror_half(images, indices, fold(key, 0))
        elif self._config.augmentation != "none":
            images = crop_and_mirror(images, indices, key, padding=self._padding, mirror=self._mirror)
        if self._policy is not None:
            images = self._policy(images, rows, fold(self._key, _POLICY))
        inputs = self._normalise(images)
        if self._config.cutout:
            inputs = cutout(inputs, indices, fold(self._key, _CUTOUT), size=self._config.cutout)
        return inputs, self._split.labels[positions].to(self._device, non_blocking=True)


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
