"""A data set in memory, as trials use it: loaded once per process, its pixels shared by all processes of a machine."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from samtune.config.data import DataConfig
from samtune.config.model import is_one_shape
from samtune.data.download import download
from samtune.data.images import ImageSource, ResidentImages
from samtune.data.info import refuse_what_needs_places, split_sizes, streams_of
from samtune.data.loaded import Loaded, forget_opened, load_split
from samtune.data.passes import StreamReader
from samtune.data.sources import open_source
from samtune.data.sources.base import SplitName
from samtune.data.sources.examples import ExamplesSource
from samtune.data.sources.own_stream import OwnStream
from samtune.data.sources.traits import Traits
from samtune.data.subset import flip_labels, select_rows
from samtune.errors import DatasetError
from samtune.sam import tree


@dataclass(frozen=True, eq=False)
class Split:
    """Some examples of a data set.

    Attributes:
        source: the images of the file that the examples are in, shared with the other splits.
        indices: int64 [N], ascending: the examples' rows in that file, their identity in every seed.
        labels: int64 [N]; of a training split, with the label noise. Targets other than classes: a structure of tensors
            [N, ...], or None.
        stream: of a split that can only be gone through, which is this; `source`, `indices` and `labels` are then those
            of its first example alone.
    """

    source: ImageSource
    indices: Tensor
    labels: Any
    stream: OwnStream | None = None

    def __len__(self) -> int:
        if self.stream is not None:
            raise TypeError(f"{self.stream.where}: an iterable has no length")
        return len(self.indices)

    @property
    def is_empty(self) -> bool:
        return self.stream is None and not len(self.indices)

    def targets(self, positions: Tensor, device: torch.device) -> Any:
        """Those of some examples, on the device."""
        return tree.map_tensors(lambda tensor: tensor[positions].to(device, non_blocking=True), self.labels)

    def some(self, positions: Tensor) -> Split:
        """Some of the examples."""
        return Split(self.source, self.indices[positions], tree.take(self.labels, positions))

    def beginning(self, number: int) -> Split:
        """The first examples, or all where there are no more; of a stream, read now and kept in memory."""
        if self.stream is None:
            return self.some(torch.arange(min(number, len(self))))
        reader = StreamReader(self.stream, seed=0)
        inputs, targets = reader.tensors(list(itertools.islice(reader.one_pass(), number)))
        return Split(ResidentImages(inputs), torch.arange(tree.num_examples((inputs, targets))), targets)

    @property
    def images(self) -> Any:
        """[N, ...]: a copy of all inputs, for looking at; batches are taken from `source`."""
        everything = torch.arange(len(self))
        return self.source.one_batch(self.indices, everything, torch.device("cpu"))[0]

    def batches(
        self, requests: Iterable[Tensor], device: torch.device, *, crop: int | None, replace: bool
    ) -> Iterator[tuple[Any, Tensor]]:
        """The inputs of one batch after another, and their positions; see `ImageSource.batches`."""
        return self.source.batches(self.indices, requests, device, crop=crop, replace=replace)


class Dataset:
    """The examples that one data configuration selects. Of the test set, nothing is read before `load_test`.

    Args:
        fold: with `config.folds`, the one that validates.

    Attributes:
        train, validation: disjoint parts of the official training set, or what the user's function returns as such.
        flipped: int64 [k], ascending: the examples of `train` whose label the label noise changed.
        mean, std: of each channel over the official training set, pixels in [0, 1].
        traits: facts about the data set.
    """

    def __init__(self, config: DataConfig, fold: int = 0) -> None:
        self.config = config
        download(config)
        self._source = open_source(config)
        self.traits: Traits = self._source.traits
        loaded = load_split(self._source, "train", config)
        self.mean = self.traits.mean or loaded.mean
        self.std = self.traits.std or loaded.std
        given = self._source.num_validation() if config.validation_fraction else 0
        self._choose_examples(loaded, given, fold)
        if given:
            self.validation = self._whole("validation")
        self._check_augmentation()
        self._test: Split | None = None

    def _choose_examples(self, loaded: Loaded, given: int, fold: int) -> None:
        """Sets `train`, `flipped`, and `validation` where it is a part of the training set."""
        config = self.config
        if "train" in streams_of(self._source):
            refuse_what_needs_places(config, given)
            self.train, self.flipped = self._whole("train"), loaded.rows[:0]
            self.validation = Split(loaded.images, loaded.rows[:0], tree.take(loaded.labels, loaded.rows[:0]))
            return
        num_train, num_validation = split_sizes(config, len(loaded.rows), given)
        strata = loaded.labels if self.traits.classes else torch.zeros(len(loaded.rows), dtype=torch.int64)
        rows, validation = select_rows(config, strata, num_train, 0 if given else num_validation, fold)
        assert config.label_noise_seed != "trial"  # `TrialSpec.examples` has put the trial's seed in its place
        labels, flipped = tree.take(loaded.labels, rows), rows[:0]
        if self.traits.classes:
            labels, flipped = flip_labels(labels, rows, config.label_noise, self.num_classes, config.label_noise_seed)
        self.flipped = rows[flipped]
        self.train = Split(loaded.images, rows, labels)
        self.validation = Split(loaded.images, validation, tree.take(loaded.labels, validation))

    def _whole(self, name: SplitName) -> Split:
        loaded = load_split(self._source, name, self.config)
        return Split(loaded.images, loaded.rows, loaded.labels, streams_of(self._source).get(name))

    @property
    def num_classes(self) -> int:
        return self.traits.num_classes

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(channels, height, width); of a data set of the user's, the shape of whatever its inputs are; of nested
        inputs, the same structure of shapes."""
        return self.traits.shape

    def label_noise(self) -> dict[str, Any]:
        """What was done to the labels, to be kept with a trial: the rate, the seed, and the examples changed.

        Each example is (row in the training set's files, true class, class that is trained).
        """
        clean = load_split(self._source, "train", self.config).labels[self.flipped].tolist()
        noisy = self.train.labels[torch.searchsorted(self.train.indices, self.flipped)].tolist()
        return {
            "label_noise": self.config.label_noise,
            "label_noise_seed": self.config.label_noise_seed,
            "flipped": [list(entry) for entry in zip(self.flipped.tolist(), clean, noisy, strict=True)],
        }

    def with_labels(self, labels: Tensor) -> Dataset:
        """The same data set with other training labels.

        Args:
            labels: int64 [num training examples], in the order of `train`.
        """
        other = copy.copy(self)
        other.train = Split(self.train.source, self.train.indices, labels)
        files = load_split(self._source, "train", self.config)
        clean = files.labels[torch.searchsorted(files.rows, self.train.indices)]
        other.flipped = self.train.indices[labels != clean]
        return other

    @property
    def augments_itself(self) -> bool:
        """Whether the examples come from a torch Dataset, which may draw at random what it does to them."""
        return isinstance(self._source, ExamplesSource) and self._source.dataset("train") is not None

    def _check_augmentation(self) -> None:
        config = self.config
        if config.augmentation == "none" and not config.cutout and not config.mixup and not config.cutmix:
            return
        images = not isinstance(self._source, ExamplesSource) or (
            is_one_shape(self.input_shape)
            and len(self.input_shape) == 3
            and self.input_shape[0] in (1, 3)
            and self._source.first("train").dtype == torch.uint8
            and not (self.augments_itself and config.augmentation == "resized_crop")
        )
        if not images:
            raise DatasetError(
                f"data.augmentation: {config.name} gives no uint8 tensors [3 or 1, H, W]; augment its inputs there "
                "(and set augmentation none, and cutout, mixup and cutmix 0)"
            )

    def load_test(self) -> Split:
        """The official test set (of digits, the 20% held out), which a search never touches.

        Raises:
            DatasetError: there is none, or its files are damaged.
        """
        if self._test is None:
            self._test = self._whole("test")
        return self._test


def load_dataset(config: DataConfig, fold: int = 0) -> Dataset:
    """The data set of a configuration; within a process, the same object whenever an equal configuration asks.

    Args:
        fold: with `config.folds`, the one that validates, counted from 0.

    Raises:
        DatasetError: it is missing, damaged, or too small for the configuration.
    """
    return _load_dataset(config, fold, Path.cwd())


def forget_loaded() -> None:
    """Lets go of everything that `load_dataset` keeps for the next trial."""
    _load_dataset.cache_clear()
    forget_opened()


@lru_cache(maxsize=16)
def _load_dataset(config: DataConfig, fold: int, working_directory: Path) -> Dataset:
    del working_directory  # part of the key only: the configuration's root may be relative to it
    return Dataset(config, fold)
