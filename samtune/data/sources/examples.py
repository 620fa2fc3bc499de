"""Examples that are in memory, or in a torch Dataset, as they are: nothing is decoded and nothing cached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from samtune.config.data import DatasetConfig
from samtune.data.sources.base import DataSource, ImageArray, LabelArray, SplitName
from samtune.errors import DatasetError

if TYPE_CHECKING:
    from samtune.data.sources.own_split import OwnSplit
    from samtune.data.sources.own_stream import OwnStream


class ExamplesSource(DataSource):
    """Inputs and targets in any structure of tensors.

    Attributes:
        splits: by name; train is always there.
        streams: those of them that can only be gone through; they hold their first example alone.
    """

    splits: Mapping[SplitName, OwnSplit]
    streams: Mapping[SplitName, OwnStream] = MappingProxyType({})

    def check(self) -> None:
        """Nothing is read before it is asked for, and then it is checked."""

    def num_examples(self, split: SplitName) -> int:
        return len(self.splits[split]) if split in self.splits else 0

    def num_validation(self) -> int:
        return self.num_examples("validation")

    def files(self, split: SplitName) -> Sequence[Path]:
        return ()

    def read(self, split: SplitName) -> tuple[ImageArray, LabelArray]:
        raise AssertionError("these examples are not decoded")

    def dataset(self, split: SplitName) -> Any | None:
        """The torch Dataset of a split; None where it is tensors."""
        return self.splits[split].dataset

    def inputs(self, split: SplitName) -> Any:
        """[N, ...] of a split of tensors; nested inputs: a structure of such."""
        return self.splits[split].inputs

    def labels(self, split: SplitName) -> Any:
        """int64 [N]; targets that are not classes: a structure of tensors [N, ...], or None."""
        return self.splits[split].labels

    def first(self, split: SplitName) -> Any:
        """The first input."""
        return self.splits[split].first()


def refuse_class_options(config: DatasetConfig, name: str) -> None:
    """Raises DatasetError where a key of the data is set that needs classes."""
    for key in ("label_noise", "relabel", "mixup", "cutmix"):
        if value := getattr(config, key):
            raise DatasetError(f"data.{key}: needs targets that are classes (got {value}; {name} has others)")
