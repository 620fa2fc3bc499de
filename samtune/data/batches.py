"""Batches of a data set: the same global batch, bit for bit, for any number of workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from samtune.config.data import DataConfig
from samtune.data.augment import crop_and_mirror, cutout, mirror_half
from samtune.data.counter_rng import fold, random_order
from samtune.data.dataset import Dataset, Split
from samtune.data.mixing import draw_mix
from samtune.data.passes import StreamReader, stream_eval_batches, stream_train_batches
from samtune.data.policies import find_policy

# Separate streams of random numbers.
_SHUFFLE, _EXAMPLES, _CROP, _POLICY, _CUTOUT, _MIX, _PARTNERS = range(7)


def steps_per_epoch(dataset: Dataset, *, batch_size: int) -> int:
    """How many full batches an epoch has; the incomplete last one is dropped, each epoch other examples.

    Of a stream nobody knows: 0.

    Raises:
        ValueError: there is not even one.
    """
    if dataset.train.stream is not None:
        return 0
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
    accumulate: int = 1,
    skip: int = 0,
    stop: int | None = None,
) -> Iterator[tuple[Any, Any]]:
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
        accumulate: parts in which each batch comes, one after another; of each, a worker has its rows.
        skip: steps of the epoch that are done already.
        stop: the step of the epoch, counted from 0, before which to end; None: its end.

    Yields:
        inputs float32 [b / accumulate, C, H, W], normalised, and targets int64, on the device; with Mixup or CutMix,
        targets are class probabilities, float32 [b / accumulate, num_classes]. Of a data set of the user's, inputs and
        targets have the structure that it gives them; the targets may be None.

    Raises:
        ValueError: the workers do not divide the batch, or a batch has more examples than the training split.
    """
    _check_parts(batch_size, num_workers, accumulate)
    steps = steps_per_epoch(dataset, batch_size=batch_size)
    order = random_order(fold(seed, epoch, _SHUFFLE), dataset.train.indices)
    batches = order[: steps * batch_size].view(steps, accumulate, num_workers, -1)
    return _train_batches(dataset, config, batches[skip:stop], rank, fold(seed, epoch), device, first_step=skip)


def _check_parts(batch_size: int, num_workers: int, accumulate: int) -> None:
    if batch_size % num_workers:
        raise ValueError(f"num_workers must divide batch_size ({num_workers} does not divide {batch_size})")
    if batch_size % (num_workers * accumulate):
        raise ValueError(
            "num_workers x accumulate must divide batch_size "
            f"({num_workers} x {accumulate} does not divide {batch_size})"
        )


def stream_reader(dataset: Dataset, split: Split, *, seed: int) -> StreamReader | None:
    """What goes through the examples of a split where they are a stream; else None."""
    classes = dataset.num_classes if dataset.traits.classes else None
    return None if split.stream is None else StreamReader(split.stream, seed=seed, num_classes=classes)


def batches_of_steps(
    dataset: Dataset,
    config: DataConfig,
    first: int,
    last: int,
    *,
    batch_size: int,
    seed: int,
    reader: StreamReader | None = None,
    **options: Any,
) -> Iterator[tuple[Any, Any]]:
    """One worker's share of the batches of some steps, counted from 0 over the whole training.

    The epochs of `train_batches` follow one another. Of a stream the passes do, without a gap: a batch that is begun
    with the last examples of a pass ends with the first of the next.

    Args:
        first, last: the steps are first, …, last - 1.
        reader: of a stream, at the first of these steps.
        options: as of `train_batches`.
    """
    if reader is not None:
        _check_parts(batch_size, options["num_workers"], options.get("accumulate", 1))
        normalise = Normalise(dataset, options["device"])
        for inputs, targets in stream_train_batches(reader, last - first, batch_size=batch_size, **options):
            yield normalise(inputs), targets
        return
    steps = steps_per_epoch(dataset, batch_size=batch_size)
    while first < last:
        epoch, skip = divmod(first, steps)
        stop = min(steps, skip + last - first)
        yield from train_batches(
            dataset, config, batch_size=batch_size, seed=seed, epoch=epoch, skip=skip, stop=stop, **options
        )
        first += stop - skip


def _train_batches(
    dataset: Dataset,
    config: DataConfig,
    batches: Tensor,
    rank: int,
    key: int,
    device: torch.device,
    first_step: int,
) -> Iterator[tuple[Any, Any]]:
    """As of `train_batches`.

    Args:
        batches: positions in the training split, int64 [steps, accumulate, num_workers, b / accumulate].
    """
    if not (config.mixup or config.cutmix):
        yield from BatchMaker(dataset, config, key, batches[:, :, rank].flatten(0, 1), device)
        return

    def positions() -> Iterator[Tensor]:
        """Of all batches, in the order in which they are made: each, and then the one that it is mixed with."""
        for step, batch in enumerate(batches, start=first_step):
            order = random_order(fold(key, _PARTNERS, step), batch.flatten())
            for pair in zip(batch[:, rank], batch.flatten()[order].view_as(batch)[:, rank], strict=True):
                yield from pair

    make = BatchMaker(dataset, config, key, positions(), device)
    height, width = dataset.input_shape[1:]
    for step, batch in enumerate(batches, start=first_step):
        mix = draw_mix(config.mixup, config.cutmix, height, width, key=fold(key, _MIX, step))
        for _ in batch:
            (inputs, targets), (other_inputs, other_targets) = next(make), next(make)
            yield mix.inputs(inputs, other_inputs), mix.targets(targets, other_targets, dataset.num_classes)


class BatchMaker:
    """Takes training examples, augments and normalises them: an iterator over batches.

    Args:
        key: of seed and epoch.
        positions: of each batch in the training split, int64 [b].
    """

    def __init__(
        self, dataset: Dataset, config: DataConfig, key: int, positions: Iterable[Tensor], device: torch.device
    ) -> None:
        self._split, self._config, self._device = dataset.train, config, device
        self._normalise = Normalise(dataset, device)
        self._key = key
        self._mirror = dataset.traits.mirror
        self._policy = None
        if config.augmentation in ("autoaugment", "randaugment", "trivialaugment"):
            self._policy = find_policy(
                config.augmentation, getattr(config, "policy", dataset.traits.policy), *dataset.input_shape[1:]
            )
        boxes = fold(key, _CROP) if config.augmentation == "resized_crop" or dataset.augments_itself else None
        self._batches = self._split.batches(positions, device, crop=boxes, replace=True)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return self

    def __next__(self) -> tuple[Any, Any]:
        """Inputs float32 [b, C, H, W] and targets int64 [b]."""
        images, positions = next(self._batches)
        targets = self._split.targets(positions, self._device)
        augmentation = self._config.augmentation
        if augmentation == "none" and not self._config.cutout:
            return self._normalise(images), targets
        rows, key = self._split.indices[positions], fold(self._key, _CROP)
        indices = rows.to(self._device, non_blocking=True)
        if augmentation == "resized_crop":  # the boxes are cut where the images come from
            images = mirror_half(images, indices, fold(key, 0)) if self._mirror else images
        elif augmentation != "none":
            images = crop_and_mirror(images, indices, key, padding=round(images.shape[2] / 8), mirror=self._mirror)
        if self._policy is not None:
            images = self._policy(images, rows, fold(self._key, _POLICY))
        inputs = self._normalise(images)
        if self._config.cutout:
            inputs = cutout(inputs, indices, fold(self._key, _CUTOUT), size=self._config.cutout)
        return inputs, targets


def eval_batches(
    dataset: Dataset, split: Split, *, batch_size: int, rank: int, num_workers: int, device: torch.device
) -> Iterator[tuple[Any, Any]]:
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
    normalise = Normalise(dataset, device)
    if (reader := stream_reader(dataset, split, seed=0)) is not None:
        place = {"rank": rank, "num_workers": num_workers}
        for inputs, targets in stream_eval_batches(reader, batch_size=batch_size, device=device, **place):
            yield normalise(inputs), targets
        return
    start, stop = len(split) * rank // num_workers, len(split) * (rank + 1) // num_workers
    requests = [torch.arange(first, min(first + batch_size, stop)) for first in range(start, stop, batch_size)]
    for images, positions in split.batches(requests, device, crop=None, replace=False):
        yield normalise(images), split.targets(positions, device)


def training_examples(dataset: Dataset, num_examples: int, *, device: torch.device, seed: int = 0) -> tuple[Any, Any]:
    """Training examples as they are, without augmentation: the same on every rank.

    Args:
        dataset: whose training split is read.
        num_examples: how many, drawn at random by `seed`, of a stream its first; all of them when there are no more.
        device: where the batch is made.
        seed: chooses the examples.

    Returns:
        inputs float32 [n, C, H, W], normalised, and targets int64 [n].
    """
    split = dataset.train if dataset.train.stream is None else dataset.train.beginning(num_examples)
    positions = random_order(fold(seed, _EXAMPLES), split.indices)[:num_examples]
    images, positions = split.source.one_batch(split.indices, positions, device)
    return Normalise(dataset, device)(images), split.targets(positions, device)


class Normalise:
    """uint8 images to float32 of zero mean and unit variance per channel; other inputs stay as they are."""

    def __init__(self, dataset: Dataset, device: torch.device) -> None:
        mean = torch.tensor(dataset.mean, dtype=torch.float64)
        std = torch.tensor(dataset.std, dtype=torch.float64)
        std[std == 0] = 1  # a channel of one value everywhere
        self._scale = (1 / (255 * std)).float().view(-1, 1, 1).to(device)
        self._shift = (mean / std).float().view(-1, 1, 1).to(device)

    def __call__(self, images: Any) -> Any:
        if not isinstance(images, Tensor) or images.dtype != torch.uint8:
            return images
        # Two roundings, each an operation of its own: a fused one would make the bits depend on the batch's layout.
        return images.to(torch.float32).mul_(self._scale).sub_(self._shift)
