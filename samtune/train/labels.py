"""Training labels that are not the files': those that a network predicts, and a record of what was changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from samtune.config.model import ModelConfig
from samtune.config.trial import TrialSpec, data_digest
from samtune.data import Dataset
from samtune.errors import UsageError
from samtune.models.saved import function_of, load_model
from samtune.sam import tree
from samtune.storage import is_file, join, write_bytes
from samtune.train.sharding import in_step

BATCH_SIZE = 1024


@torch.no_grad()
def relabelled(
    dataset: Dataset, network: str, own: ModelConfig, *, rank: int, num_workers: int, device: torch.device
) -> Dataset:
    """The data set with the classes that a trained network predicts for the training examples, as they are.

    Foret et al. 2021, section 3.3 (bootstrap: train, relabel, train again). See `predicted_labels`.

    Args:
        network: path or URI of what `samtune.models.saved.save_weights` wrote.
        own: the trial's network: a function of the user's that it names may have made the other one too.

    Raises:
        UsageError: there is no such network, it tells other classes apart, or another function made it.
    """
    model = load_model(network, device, model=function_of(network, [own]))
    labels = predicted_labels(
        dataset,
        lambda inputs: _classes(model, inputs, dataset.num_classes),
        batch_size=BATCH_SIZE,
        rank=rank,
        num_workers=num_workers,
        device=device,
    )
    return dataset.with_labels(labels)


def predicted_labels(
    dataset: Dataset,
    classify: Callable[[Tensor], Tensor],
    *,
    batch_size: int,
    rank: int,
    num_workers: int,
    device: torch.device,
    is_collective: bool = False,
) -> Tensor:
    """Classes for the training examples as they are, without augmentation: int64 [N], on the host.

    Every rank predicts its share. An image that cannot be read keeps its label.

    Args:
        classify: the classes, int64 [n], of n inputs as the data set has them.
        batch_size: examples of one call.
        is_collective: whether all ranks must call `classify` equally often.
    """
    split = dataset.train
    labels = torch.full((len(split),), -1, device=device)
    start, stop = len(split) * rank // num_workers, len(split) * (rank + 1) // num_workers
    requests = [torch.arange(first, min(first + batch_size, stop)) for first in range(start, stop, batch_size)]
    batches = split.batches(requests, device, crop=None, replace=False)
    for inputs, positions in (batch for batch, _ in in_step(batches, device)) if is_collective else batches:
        labels[positions.to(device)] = classify(inputs)
    if num_workers > 1:
        dist.all_reduce(labels, dist.ReduceOp.MAX)
    found = labels.cpu()
    return torch.where(found < 0, split.labels, found)


def _classes(model: nn.Module, inputs: Any, num_classes: int) -> Tensor:
    are_images = isinstance(inputs, Tensor) and inputs.dtype == torch.uint8
    logits = tree.output_tensor(model(inputs.float() / 255 if are_images else inputs))
    if logits.shape[1] != num_classes:
        raise UsageError(f"data.relabel: the network tells {logits.shape[1]} classes apart, the data set {num_classes}")
    return logits.argmax(dim=1)


def keep_changed_labels(datasets: Sequence[Dataset], spec: TrialSpec, folder: str) -> None:
    """Writes which training labels were changed to what (`Dataset.label_noise`), once for all trials on the same data.

    Of folds, and of repeats with noise of their own, the record is of the first one's, with what was changed in each as
    `flipped_of_each`: another part of the examples is trained on, and so others of them are changed.

    Args:
        datasets: of the networks that the trial trains side by side.
        folder: of the study, for a file named by `data_digest`.
    """
    if spec.data.label_noise or spec.data.relabel:
        file = join(folder, f"{data_digest(spec.params())}.json")
        if not is_file(file):
            record, *others = [dataset.label_noise() for dataset in datasets]
            if any(other["flipped"] != record["flipped"] for other in others):
                record = record | {"flipped_of_each": [each["flipped"] for each in (record, *others)]}
            write_bytes(file, json.dumps(record).encode())
