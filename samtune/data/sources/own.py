"""A data set of the user's: whatever a function returns, tensors or torch Datasets."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samtune.config.data import OwnDataConfig
from samtune.data.sources.base import DataSource, ImageArray, LabelArray, SplitName
from samtune.data.sources.traits import Traits
from samtune.errors import DatasetError, one_line
from samtune.user_code import check_function, resolve_function

if TYPE_CHECKING:
    from torch import Tensor

_KEY = "data.name"


class OwnSource(DataSource):
    """What the function returned: it is called once in a process."""

    def __init__(self, config: OwnDataConfig) -> None:
        self.name = config.name
        self._splits = _call(
            resolve_function(config.name, _KEY), config.name, json.dumps(config.options, sort_keys=True)
        )
        labels = self.labels("train")
        if not _are_classes(labels):
            _refuse_class_options(config)
            self.traits = Traits(
                config.num_classes or labels[0].numel(), tuple(self.first("train").shape), classes=False
            )
            return
        largest = int(labels.max()) + 1
        num_classes = config.num_classes or largest
        if config.num_classes is not None and largest > num_classes:
            raise DatasetError(f"{_KEY}: {self.name}: classes must be in 0..{num_classes - 1} (found {largest - 1})")
        self.traits = Traits(num_classes, tuple(self.first("train").shape))

    def check(self) -> None:
        """The constructor has."""

    def num_examples(self, split: SplitName) -> int:
        return len(self.labels(split)) if split in self._splits else 0

    def files(self, split: SplitName) -> Sequence[Path]:
        return ()

    def read(self, split: SplitName) -> tuple[ImageArray, LabelArray]:
        raise AssertionError("the user's examples are not decoded")

    def dataset(self, split: SplitName) -> Any | None:
        """The torch Dataset of a split; None where it is tensors."""
        return self._splits[split].dataset

    def inputs(self, split: SplitName) -> Tensor:
        """[N, ...] of a split of tensors."""
        inputs: Tensor = self._splits[split].inputs
        return inputs

    def labels(self, split: SplitName) -> Tensor:
        """int64 [N]; targets that are not classes: [N, ...], floats or whole numbers."""
        labels: Tensor = self._splits[split].labels
        return labels

    def first(self, split: SplitName) -> Tensor:
        """The first input."""
        first: Tensor = self._splits[split].first()
        return first


class _Split:
    """One of the two things that the function returned.

    Raises:
        DatasetError: it is neither a pair of tensors nor a Dataset of (input, class), or they do not fit.
    """

    def __init__(self, given: Any, where: str) -> None:
        import torch

        self._where = where
        self.dataset: Any | None = None
        self.inputs: Any = None
        if isinstance(given, tuple | list) and len(given) == 2:
            self.inputs = _as_tensor(given[0], f"{where}: inputs")
            labels = _as_tensor(given[1], f"{where}: classes")
            if len(self.inputs) != len(labels):
                raise DatasetError(f"{where}: {len(self.inputs)} inputs and {len(labels)} classes")
        elif hasattr(given, "__getitem__") and hasattr(given, "__len__"):
            self.dataset = given
            targets = next((getattr(given, name) for name in ("targets", "labels") if hasattr(given, name)), None)
            if targets is None:
                labels = torch.stack([_as_tensor(given[i][1], f"{where}: a class") for i in range(len(given))])
            else:
                labels = _as_tensor(targets, f"{where}: classes")
            if len(labels) != len(given):
                raise DatasetError(f"{where}: {len(given)} examples and {len(labels)} classes")
        else:
            raise DatasetError(
                f"{where}: must be (inputs, classes) or a map-style torch Dataset (got {type(given).__name__})"
            )
        if len(labels) == 0:
            raise DatasetError(f"{where}: no example in it")
        if labels.is_floating_point():
            if not bool(labels.isfinite().all()):
                raise DatasetError(f"{where}: targets must be finite")
            self.labels = labels.float()
            return
        if labels.ndim == 0 or labels.is_complex() or (labels.ndim == 1 and int(labels.min()) < 0):
            raise DatasetError(f"{where}: classes must be integers from 0, one of each example")
        self.labels = labels.long()

    def first(self) -> Any:
        if self.dataset is None:
            return self.inputs[0]
        return _as_tensor(self.dataset[0][0], f"{self._where}: the input of an example")


def _as_tensor(value: Any, what: str) -> Any:
    import torch

    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DatasetError(
            f"{what} must be a tensor, an array or numbers (got {type(value).__name__}: {one_line(error, 200)})"
        ) from error


def _are_classes(targets: Tensor) -> bool:
    return targets.ndim == 1 and not targets.is_floating_point()


def _refuse_class_options(config: OwnDataConfig) -> None:
    for key in ("label_noise", "relabel", "mixup", "cutmix"):
        if value := getattr(config, key):
            raise DatasetError(f"data.{key}: needs targets that are classes (got {value}; {config.name} has others)")


@lru_cache(maxsize=4)
def _call(part: Callable[..., Any], path: str, options: str) -> dict[SplitName, _Split]:
    arguments = json.loads(options)
    check_function(path, _KEY, **arguments)
    returned = part(**arguments)
    if not (isinstance(returned, tuple | list) and len(returned) == 2):
        raise DatasetError(f"{_KEY}: {path} must return (train, test) (it returned {type(returned).__name__})")
    splits: dict[SplitName, _Split] = {"train": _Split(returned[0], f"{_KEY}: {path}: train")}
    if returned[1] is not None:
        splits["test"] = _Split(returned[1], f"{_KEY}: {path}: test")
        if splits["test"].first().shape != splits["train"].first().shape:
            raise DatasetError(
                f"{_KEY}: {path}: inputs of test are {tuple(splits['test'].first().shape)}, those of train "
                f"{tuple(splits['train'].first().shape)}"
            )
        train, test = splits["train"].labels, splits["test"].labels
        if train.shape[1:] != test.shape[1:] or train.dtype != test.dtype:
            raise DatasetError(
                f"{_KEY}: {path}: targets of test are {test.dtype} {tuple(test.shape[1:])}, those of train "
                f"{train.dtype} {tuple(train.shape[1:])}"
            )
    return splits
