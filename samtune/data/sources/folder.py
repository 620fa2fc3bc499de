"""Image files in one folder per class, as torchvision's ImageFolder has them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from samtune.config.data import BirdsnapConfig, ImageFolderConfig, ImageNetConfig
from samtune.data.root import root_folder
from samtune.data.sources.base import DataSource, ImageArray, LabelArray, SplitName, check_arrays
from samtune.data.sources.decode import Decoder, read_image_file
from samtune.data.sources.traits import IMAGENET, Traits
from samtune.errors import DatasetError

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"})
_NUM_CLASSES = {"imagenet": 1000, "birdsnap": 500}
FolderConfig = ImageFolderConfig | ImageNetConfig | BirdsnapConfig


class FolderSource(DataSource):
    """`ROOT/train/CLASS/*` and `ROOT/test/CLASS/*` (or `val`); classes are numbered in the order of their names.

    Of `imagenet` and `birdsnap`, ROOT is the folder of that name in `data.root`.
    """

    def __init__(self, config: FolderConfig) -> None:
        self.root = root_folder(config.root)
        if config.name in _NUM_CLASSES:
            self.root /= config.name
        train = self.root / "train"
        if not train.is_dir():
            raise DatasetError(
                f"no {config.name.replace('_', ' ')} in {self.root}: {train} is not there; put images into "
                f"{train}/CLASS/, and those of the test set into {self.root}/test/CLASS/"
            )
        self._classes = sorted(path.name for path in train.iterdir() if path.is_dir())
        if not self._classes:
            raise DatasetError(f"{train}: no folder in it (expected one for each class)")
        expected = _NUM_CLASSES.get(config.name, len(self._classes))
        if len(self._classes) != expected:
            raise DatasetError(
                f"{train}: {config.name} has {expected} classes, a folder each (found {len(self._classes)}); "
                "a part of it can be used as image_folder"
            )
        self._names: dict[SplitName, list[list[str]]] = {"train": self._list("train"), "test": self._list_test()}
        shape = (config.channels, config.image_size, config.image_size)
        self.traits = Traits(len(self._classes), shape)
        if config.stream:  # nobody looks at all pixels to measure them
            mean, std = IMAGENET if config.channels == 3 else ((0.449,), (0.226,))
            self.traits = replace(self.traits, mean=mean, std=std)
        self._decoder = Decoder(shape, resize=True, skip_damaged=config.on_error == "skip")
        self.options = (str(self._decoder), *self._classes)

    def check(self) -> None:
        empty = next((n for n, names in zip(self._classes, self._names["train"], strict=True) if not names), None)
        if empty is not None:
            raise DatasetError(f"{self.root / 'train' / empty}: no image in it ({', '.join(sorted(_SUFFIXES))})")

    def num_examples(self, split: SplitName) -> int:
        return sum(map(len, self._names[split]))

    def names(self, split: SplitName) -> list[str]:
        """The paths of the images, relative to `root`."""
        return [name for names in self._names[split] for name in names]

    def labels(self, split: SplitName) -> LabelArray:
        """The class of each, int64 [N]."""
        return np.repeat(np.arange(len(self._classes), dtype=np.int64), [len(names) for names in self._names[split]])

    def files(self, split: SplitName) -> Sequence[Path]:
        return [self.root / name for name in self.names(split)]

    def read(self, split: SplitName) -> tuple[ImageArray, LabelArray]:
        images, labels = self._decoder.all(self._encoded(split), self.num_examples(split))
        check_arrays(images, labels, self.traits, str(self.root / split))
        return images, labels

    def _encoded(self, split: SplitName) -> Iterator[tuple[str, Callable[[], bytes], int]]:
        for path, label in zip(self.files(split), self.labels(split).tolist(), strict=True):
            yield str(path), partial(read_image_file, path), label

    def _list(self, folder: str) -> list[list[str]]:
        """The images of each class in a folder of `root`."""
        return [
            [
                f"{folder}/{name}/{file}"
                for file in sorted(_file_names(self.root / folder / name))
                if os.path.splitext(file)[1].lower() in _SUFFIXES
            ]
            for name in self._classes
        ]

    def _list_test(self) -> list[list[str]]:
        for folder in ("test", "val"):
            path = self.root / folder
            if path.is_dir():
                unknown = {entry.name for entry in path.iterdir() if entry.is_dir()} - set(self._classes)
                if unknown:
                    raise DatasetError(f"{path / min(unknown)}: no such class in {self.root / 'train'}")
                return self._list(folder)
        return []


def _file_names(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []
