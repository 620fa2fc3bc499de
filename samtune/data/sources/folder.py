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

    Images may lie in folders below that of their class. Names that begin with a dot are ignored, of folders and files.
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
        self._classes = sorted(_class_names(train))
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
        self._decoder = Decoder(shape, resize=True, on_error=config.on_error)
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
            [f"{folder}/{name}/{file}" for file in _image_names(self.root / folder / name)] for name in self._classes
        ]

    def _list_test(self) -> list[list[str]]:
        for folder in ("test", "val"):
            path = self.root / folder
            if path.is_dir():
                unknown = _class_names(path) - set(self._classes)
                if unknown:
                    raise DatasetError(f"{path / min(unknown)}: no such class in {self.root / 'train'}")
                return self._list(folder)
        return []


def _class_names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir() if entry.is_dir() and not _is_hidden(entry.name)}


def _image_names(folder: Path) -> list[str]:
    """The images in a folder and in those below it, by their paths in it, in torchvision's order.

    Raises:
        DatasetError: a folder cannot be read.
    """
    found = []
    for path, subfolders, files in os.walk(folder, followlinks=True, onerror=_refuse):
        subfolders[:] = [name for name in subfolders if not _is_hidden(name) and not _leads_back(path, name)]
        below = path[len(str(folder)) + 1 :]
        images = [name for name in files if os.path.splitext(name)[1].lower() in _SUFFIXES and not _is_hidden(name)]
        found.append((below, sorted(images)))
    return [os.path.join(below, name) for below, names in sorted(found) for name in names]


def _refuse(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # a class that the test set does not have
        raise DatasetError(f"{error.filename}: cannot be read ({error.strerror})") from error


def _leads_back(path: str, name: str) -> bool:
    """Whether a folder is a link to one that it lies in: the walk would not end."""
    target = os.path.join(path, name)
    return os.path.islink(target) and Path(path).resolve().is_relative_to(Path(target).resolve())


def _is_hidden(name: str) -> bool:
    """What tools leave behind: `.ipynb_checkpoints`, `._photo.png`, `.DS_Store`."""
    return name.startswith(".")
