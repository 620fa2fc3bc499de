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
from samtune.errors import DatasetError
from samtune.user_code import check_function, resolve_function

if TYPE_CHECKING:
    from samtune.data.sources.own_split import OwnSplit

_KEY = "data.name"


class OwnSource(DataSource):
    """What the function returned: it is called once in a process."""

    def __init__(self, config: OwnDataConfig) -> None:
        self.name = config.name
        self._splits = _call(
            resolve_function(config.name, _KEY), config.name, json.dumps(config.options, sort_keys=True)
        )
        from samtune.data.sources.own_split import shapes_of

        train = self._splits["train"]
        shape = shapes_of(train.first())
        if not train.holds_classes:
            _refuse_class_options(config)
            one = hasattr(train.labels, "shape")
            self.traits = Traits(config.num_classes or train.target_size(), shape, classes=False, one_target=one)
            return
        largest = int(train.labels.max()) + 1
        num_classes = config.num_classes or largest
        if config.num_classes is not None and largest > num_classes:
            raise DatasetError(f"{_KEY}: {self.name}: classes must be in 0..{num_classes - 1} (found {largest - 1})")
        self.traits = Traits(num_classes, shape)

    def check(self) -> None:
        """The constructor has."""

    def num_examples(self, split: SplitName) -> int:
        return len(self._splits[split]) if split in self._splits else 0

    def files(self, split: SplitName) -> Sequence[Path]:
        return ()

    def read(self, split: SplitName) -> tuple[ImageArray, LabelArray]:
        raise AssertionError("the user's examples are not decoded")

    def dataset(self, split: SplitName) -> Any | None:
        """The torch Dataset of a split; None where it is tensors."""
        return self._splits[split].dataset

    def inputs(self, split: SplitName) -> Any:
        """[N, ...] of a split of tensors; nested inputs: a structure of such."""
        return self._splits[split].inputs

    def labels(self, split: SplitName) -> Any:
        """int64 [N]; targets that are not classes: a structure of tensors [N, ...], or None."""
        return self._splits[split].labels

    def first(self, split: SplitName) -> Any:
        """The first input."""
        return self._splits[split].first()


def _refuse_class_options(config: OwnDataConfig) -> None:
    for key in ("label_noise", "relabel", "mixup", "cutmix"):
        if value := getattr(config, key):
            raise DatasetError(f"data.{key}: needs targets that are classes (got {value}; {config.name} has others)")


@lru_cache(maxsize=4)
def _call(part: Callable[..., Any], path: str, options: str) -> dict[SplitName, OwnSplit]:
    from samtune.data.sources.own_split import OwnSplit

    arguments = json.loads(options)
    check_function(path, _KEY, **arguments)
    returned = part(**arguments)
    if not (isinstance(returned, tuple | list) and len(returned) == 2):
        raise DatasetError(f"{_KEY}: {path} must return (train, test) (it returned {type(returned).__name__})")
    splits: dict[SplitName, OwnSplit] = {"train": OwnSplit(returned[0], f"{_KEY}: {path}: train")}
    if returned[1] is not None:
        splits["test"] = OwnSplit(returned[1], f"{_KEY}: {path}: test")
        if (form := splits["test"].form()) != (other := splits["train"].form()):
            raise DatasetError(f"{_KEY}: {path}: test has {form}; train has {other}")
    return splits
