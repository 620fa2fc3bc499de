"""What a data set on disk is: how many examples of what shape, in which files, and how to read them."""

from __future__ import annotations

import math
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from samtune.data.sources.traits import Traits
from samtune.errors import DatasetError
from samtune.storage import cache_folder

MAX_BYTES_IN_MEMORY = 2 * 2**30  # of images that are being decoded
SplitName = Literal["train", "test", "validation"]
ImageArray = NDArray[np.uint8]
LabelArray = NDArray[np.int64]


class DataSource(ABC):
    """A data set in one of the formats it is distributed in.

    The constructor finds the files and raises `DatasetError` when they are missing. No image is decoded before `read`.
    """

    traits: Traits
    options: tuple[str, ...] = ()
    """Whatever `read` depends on besides the files and the traits."""

    @abstractmethod
    def check(self) -> None:
        """Raises `DatasetError` when the files are there but not what they should be. Decodes no image."""

    @abstractmethod
    def num_examples(self, split: SplitName) -> int:
        """How many examples the split has, from metadata."""

    def num_validation(self) -> int:
        """Examples of a validation set of its own; 0: there is none, and a part of the training set is held out."""
        return 0

    @abstractmethod
    def files(self, split: SplitName) -> Sequence[Path]:
        """The files that `read` reads, in order. Empty: the data travel with a library and need no cache."""

    @abstractmethod
    def read(self, split: SplitName) -> tuple[ImageArray, LabelArray]:
        """Decodes every example.

        Returns:
            images uint8 [N, C, H, W] and labels int64 [N] in [0, num_classes).

        Raises:
            DatasetError: a file is damaged, or its content does not fit the data set.
        """


class Undownloaded(DataSource):
    """Stands for a data set that a worker is going to download: its official sizes are known, its files are not.

    Args:
        num_train, num_test: the official numbers of examples.
    """

    def __init__(self, traits: Traits, num_train: int, num_test: int) -> None:
        self.traits = traits
        self._num_examples: dict[SplitName, int] = {"train": num_train, "test": num_test}

    def check(self) -> None:
        """Nothing to check yet."""

    def num_examples(self, split: SplitName) -> int:
        return self._num_examples[split]

    def files(self, split: SplitName) -> Sequence[Path]:
        raise AssertionError("a data set is downloaded before its files are asked for")

    def read(self, split: SplitName) -> tuple[ImageArray, LabelArray]:
        raise AssertionError("a data set is downloaded before it is read")


def allocate_images(count: int, shape: tuple[int, ...]) -> ImageArray:
    """Room for decoded images, uint8 [count, C, H, W]; a large one is a file without a name, not memory."""
    if count * math.prod(shape) <= MAX_BYTES_IN_MEMORY:
        return np.empty((count, *shape), dtype=np.uint8)
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        # Claimed now: a disk that is full while mapped pages are written would kill the process.
        if hasattr(os, "posix_fallocate"):  # not on macOS
            os.posix_fallocate(file.fileno(), 0, count * math.prod(shape))
        return np.memmap(file, dtype=np.uint8, shape=(count, *shape))


def check_arrays(images: ImageArray, labels: LabelArray, traits: Traits, where: str) -> None:
    """What every source promises of its arrays.

    Raises:
        DatasetError: no example, another shape, or labels out of range.
    """
    if len(labels) == 0:
        raise DatasetError(f"{where}: no example in it")
    if images.shape != (len(labels), *traits.shape):
        raise DatasetError(
            f"{where}: {len(labels)} labels and images of {'x'.join(map(str, images.shape))} "
            f"(expected {len(labels)}x{'x'.join(map(str, traits.shape))})"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= traits.num_classes:
        raise DatasetError(f"{where}: labels must be in 0..{traits.num_classes - 1} (found {low if low < 0 else high})")
