"""A data set in memory, as trials use it: loaded once per process, its pixels shared by all processes of a machine."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from samtune.data.cache import cache_path, load_arrays
from samtune.data.download import download
from samtune.data.hashing import fold
from samtune.data.info import split_sizes
from samtune.data.sources import Source, open_source
from samtune.data.sources.base import SplitName, Traits
from samtune.data.subset import split_rows
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
        labels: int64 [N].
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


_open_images: dict[Path | str, tuple[Images, Tensor]] = {}


def _load_split(source: Source, split: SplitName, config: DataConfig) -> tuple[Images, Tensor]:
    """Images and labels of a whole file, the same objects for every configuration that reads it."""
    key = cache_path(source, split, config.name) or f"{config.name}-{split}"
    if key not in _open_images:
        pixels, labels = load_arrays(source, split, config.name)
        _open_images[key] = Images(pixels), labels
    return _open_images[key]


class Dataset:
    """The examples that one data configuration selects. Of the test set, nothing is read before `load_test`."""

    def __init__(self, config: DataConfig) -> None:
        self.config = config
        download(config)
        self._source = open_source(config)
        self.traits: Traits = self._source.traits
        images, labels = _load_split(self._source, "train", config)
        num_train, num_validation = split_sizes(config, len(labels))
        used, _ = split_rows(labels, num_train + num_validation, fold(config.split_seed, 0))
        validation, train = split_rows(labels[used], num_validation, fold(config.split_seed, 1))
        self.train = Split(images, used[train], labels[used[train]])
        self.validation = Split(images, used[validation], labels[used[validation]])
        self._test: Split | None = None

    @property
    def num_classes(self) -> int:
        return self.traits.num_classes

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return self.traits.shape

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel over the training set, pixels in [0, 1]."""
        return self.traits.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel."""
        return self.traits.std

    def load_test(self) -> Split:
        """The official test set (of digits, the 20% held out), which a search never touches.

        Raises:
            DatasetError: its files are missing or damaged.
        """
        if self._test is None:
            images, labels = _load_split(self._source, "test", self.config)
            self._test = Split(images, torch.arange(len(labels)), labels)
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
    _open_images.clear()


@lru_cache(maxsize=16)
def _load_dataset(config: DataConfig, working_directory: Path) -> Dataset:
    del working_directory  # part of the key only: the configuration's root may be relative to it
    return Dataset(config)
