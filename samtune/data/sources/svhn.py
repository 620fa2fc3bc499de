"""SVHN (Netzer 2011) in the authors' MATLAB format, which torchvision reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from samtune.data.sources.base import DataSource, ImageArray, LabelArray, SplitName, allocate_images, check_arrays
from samtune.data.sources.matlab import read_matlab
from samtune.data.sources.traits import SVHN
from samtune.errors import DatasetError


class SvhnSource(DataSource):
    """`train_32x32.mat`, `test_32x32.mat` and, if asked for, `extra_32x32.mat`: X uint8 [32, 32, 3, N], y [N, 1].

    In the files the class of the digit 0 is 10; here it is 0.
    """

    traits = SVHN

    def __init__(self, folder: Path, *, extra: bool) -> None:
        train = ("train", "extra") if extra else ("train",)
        self._files: dict[SplitName, list[Path]] = {
            "train": [folder / f"{name}_32x32.mat" for name in train],
            "test": [folder / "test_32x32.mat"],
        }
        missing = [path for paths in self._files.values() for path in paths if not path.is_file()]
        if missing:
            raise DatasetError(f"{missing[0]}: missing (a part of the data set, in its authors' format)")

    def check(self) -> None:
        for split in self._files:
            self.num_examples(split)

    def num_examples(self, split: SplitName) -> int:
        return sum(self._count(path) for path in self._files[split])

    def files(self, split: SplitName) -> Sequence[Path]:
        return self._files[split]

    def read(self, split: SplitName) -> tuple[ImageArray, LabelArray]:
        images = allocate_images(self.num_examples(split), self.traits.shape)
        labels = np.empty(len(images), dtype=np.int64)
        start = 0
        for path in self._files[split]:
            part_images, part_labels = self._load(path)
            stop = start + len(part_labels)
            images[start:stop], labels[start:stop] = part_images, part_labels
            start = stop
        return images, labels

    def _count(self, path: Path) -> int:
        shapes = {name: shape for name, shape, _ in read_matlab("whosmat", path)}
        images, labels = shapes.get("X", ()), shapes.get("y", ())
        if len(images) != 4 or images[:3] != (32, 32, 3) or labels != (images[3], 1):
            raise DatasetError(f"{path}: expected X of 32x32x3xN and y of Nx1 (found {shapes})")
        return int(images[3])

    def _load(self, path: Path) -> tuple[ImageArray, LabelArray]:
        content = read_matlab("loadmat", path, variable_names=["X", "y"])
        images, labels = content["X"].transpose(3, 2, 0, 1), content["y"][:, 0].astype(np.int64) % 10
        check_arrays(images, labels, self.traits, str(path))
        return images, labels
