"""A data set in memory, as trials use it: loaded once per process, its pixels shared by all processes of a machine."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from samtune.data.cache import Arrays, cache_path, load_arrays
from samtune.data.download import download
from samtune.data.info import split_sizes
from samtune.data.sources import Source, open_source
from samtune.data.sources.base import SplitName
from samtune.data.sources.traits import Traits
from samtune.data.subset import flip_labels, select_rows
from samtune.errors import DatasetError
from samtune.spec.data import DataConfig

MAX_RESIDENT_BYTES = 4 * 2**30
"""A data set up to this size is copied to the accelerator once; of a larger one, each batch is."""


class Images:
    """All images of one file: pixels on the host, and a copy on each accelerator that asked for them."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels
        """uint8 [N, C, H, W]; possibly pages of a file. Not to be written to."""
        self._resident: dict[torch.device, Tensor] = {}

    def take(self, rows: Tensor, device: torch.device) -> Tensor:
        """The images of `rows` (int64 [b], on the host), as uint8 [b, C, H, W] on the device."""
        if device.type == "cpu":
            return self.pixels.index_select(0, rows)
        if self.pixels.nbytes <= MAX_RESIDENT_BYTES:
            if device not in self._resident:
                self._resident[device] = self.pixels.to(device)
            return self._resident[device].index_select(0, rows.to(device, non_blocking=True))
        return self.pixels.index_select(0, rows).pin_memory().to(device, non_blocking=True)


@dataclass(frozen=True, eq=False)
class Split:
    """Some examples of a data set.

    Attributes:
        source: the images of the file that the examples are in, shared with the other splits.
        indices: int64 [N], ascending: the examples' rows in that file, their identity in every seed.
        labels: int64 [N]; of a training split, with the label noise.
    """

    source: Images
    indices: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def images(self) -> Tensor:
        """uint8 [N, C, H, W]: a copy, for looking at; batches are taken from `source`."""
        return self.source.pixels.index_select(0, self.indices)


_open_files: dict[Path | str, tuple[Images, Arrays]] = {}


def _load_split(source: Source, split: SplitName, config: DataConfig) -> tuple[Images, Arrays]:
    """The whole of a split, the same objects for every configuration that reads it."""
    if source.num_examples(split) == 0:
        raise DatasetError(f"{config.name} has no {split} set")
    key = cache_path(source, split, config.name) or f"{config.name}-{split}"
    if key not in _open_files:
        arrays = load_arrays(source, split, config.name)
        _open_files[key] = Images(arrays.images), arrays
    return _open_files[key]


class Dataset:
    """The examples that one data configuration selects. Of the test set, nothing is read before `load_test`.

    Attributes:
        train, validation: disjoint parts of the official training set.
        flipped: int64 [k], ascending: the examples of `train` whose label the label noise changed.
        mean, std: of each channel over the official training set, pixels in [0, 1].
        traits: facts about the data set.
    """

    def __init__(self, config: DataConfig) -> None:
        self.config = config
        download(config)
        self._source = open_source(config)
        self.traits: Traits = self._source.traits
        images, arrays = _load_split(self._source, "train", config)
        self.mean = self.traits.mean or arrays.mean
        self.std = self.traits.std or arrays.std
        num_train, num_validation = split_sizes(config, len(arrays.labels))
        rows, validation = select_rows(config, arrays.labels, num_train, num_validation)
        labels, flipped = flip_labels(
            arrays.labels[rows], rows, config.label_noise, self.num_classes, config.label_noise_seed
        )
        self.flipped = rows[flipped]
        self.train = Split(images, rows, labels)
        self.validation = Split(images, validation, arrays.labels[validation])
        self._test: Split | None = None

    @property
    def num_classes(self) -> int:
        return self.traits.num_classes

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return self.traits.shape

    def load_test(self) -> Split:
        """The official test set (of digits, the 20% held out), which a search never touches.

        Raises:
            DatasetError: there is none, or its files are damaged.
        """
        if self._test is None:
            images, arrays = _load_split(self._source, "test", self.config)
            self._test = Split(images, torch.arange(len(arrays.labels)), arrays.labels)
        return self._test


def load_dataset(config: DataConfig) -> Dataset:
    """The data set of a configuration; within a process, the same object whenever an equal configuration asks.

    Raises:
        DatasetError: it is missing, damaged, or too small for the configuration.
    """
    return _load_dataset(config, Path.cwd())


def forget_loaded() -> None:
    """Lets go of everything that `load_dataset` keeps for the next trial."""
    _load_dataset.cache_clear()
    _open_files.clear()


@lru_cache(maxsize=16)
def _load_dataset(config: DataConfig, working_directory: Path) -> Dataset:
    del working_directory  # part of the key only: the configuration's root may be relative to it
    return Dataset(config)
