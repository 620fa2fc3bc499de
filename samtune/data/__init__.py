"""Data sets for training: found, decoded once, split, augmented, batched.

Knows torch and numpy; must not import Ray, MLflow, or the networks. `check_dataset` and `dataset_info` look at files
and metadata only; they and `prepare_dataset`, which decodes, import no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from samtune.lazy import lazy_exports

if TYPE_CHECKING:
    from samtune.data.batches import (
        batches_of_steps,
        eval_batches,
        steps_per_epoch,
        stream_reader,
        train_batches,
        training_examples,
    )
    from samtune.data.dataset import Dataset, Split, forget_loaded, load_dataset
    from samtune.data.info import DatasetInfo, check_dataset, dataset_info, prepare_dataset
    from samtune.data.sample import Sample

__all__ = [
    "Dataset",
    "DatasetInfo",
    "Sample",
    "Split",
    "batches_of_steps",
    "check_dataset",
    "dataset_info",
    "eval_batches",
    "forget_loaded",
    "load_dataset",
    "prepare_dataset",
    "steps_per_epoch",
    "stream_reader",
    "train_batches",
    "training_examples",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "batches_of_steps": ".batches",
        "eval_batches": ".batches",
        "steps_per_epoch": ".batches",
        "stream_reader": ".batches",
        "train_batches": ".batches",
        "training_examples": ".batches",
        "Dataset": ".dataset",
        "Split": ".dataset",
        "forget_loaded": ".dataset",
        "load_dataset": ".dataset",
        "DatasetInfo": ".info",
        "check_dataset": ".info",
        "dataset_info": ".info",
        "prepare_dataset": ".info",
        "Sample": ".sample",
    },
)
