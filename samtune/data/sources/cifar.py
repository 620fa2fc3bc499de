"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) in the authors' Python format, which torchvision reads."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from samtune.data.sources.base import DataSource, ImageArray, LabelArray, SplitName, check_arrays
from samtune.data.sources.traits import Traits
from samtune.errors import DatasetError

CIFAR10_BATCHES: dict[SplitName, tuple[str, ...]] = {
    "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
    "test": ("test_batch",),
}
CIFAR100_BATCHES: dict[SplitName, tuple[str, ...]] = {"train": ("train",), "test": ("test",)}


class PickleSource(DataSource):
    """Batches of `{data: uint8 [N, 3072], LABEL: list of int}`, pickled by Python 2.

    Args:
        folder: that holds the files.
        batches: names of the files of each split.
        label: key of the labels (`labels` in CIFAR-10, `fine_labels` in CIFAR-100).
    """

    def __init__(self, traits: Traits, folder: Path, batches: dict[SplitName, tuple[str, ...]], label: str) -> None:
        self.traits = traits
        self._folder, self._batches, self._label = folder, batches, label
        self.options = (label,)
        self._num_examples: dict[SplitName, int] = {}
        missing = [name for names in batches.values() for name in names if not (folder / name).is_file()]
        if missing:
            raise DatasetError(f"{folder / missing[0]}: missing (a part of the data set, in torchvision's format)")

    def check(self) -> None:
        for split in self._batches:
            self.num_examples(split)

    def num_examples(self, split: SplitName) -> int:
        if split not in self._num_examples:  # the format has no metadata: the files must be read
            self._num_examples[split] = sum(len(self._load(path)[1]) for path in self.files(split))
        return self._num_examples[split]

    def files(self, split: SplitName) -> Sequence[Path]:
        return [self._folder / name for name in self._batches[split]]

    def read(self, split: SplitName) -> tuple[ImageArray, LabelArray]:
        parts = [self._load(path) for path in self.files(split)]
        return np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])

    def _load(self, path: Path) -> tuple[ImageArray, LabelArray]:
        try:
            with path.open("rb") as file:
                content = _ArrayUnpickler(file, encoding="latin1").load()
            images = np.asarray(content["data"], dtype=np.uint8).reshape(-1, *self.traits.shape)
            labels = np.asarray(content[self._label], dtype=np.int64)
        except (OSError, EOFError, pickle.UnpicklingError, KeyError, TypeError, ValueError) as error:
            raise DatasetError(f"{path}: not a batch in CIFAR's Python format ({error!r})") from error
        check_arrays(images, labels, self.traits, str(path))
        return images, labels


class _ArrayUnpickler(pickle.Unpickler):
    """Builds NumPy arrays and Python's own containers, and runs nothing else that a file may name."""

    _ALLOWED = frozenset(
        {
            ("numpy", "dtype"),
            ("numpy", "ndarray"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("_codecs", "encode"),  # how Python 3 writes bytes in protocols 0 to 2
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}")
        if name == "_reconstruct":
            return np.empty(0).__reduce__()[0]  # old files name a module that NumPy 2 moved
        return super().find_class(module, name)
