"""Image files in one folder per class, as torchvision's ImageFolder has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from samtune.data.folders import root_folder
from samtune.data.sources.base import Images, Labels, Source, SplitName, check_arrays
from samtune.data.sources.decode import Decoder, read_image_file
from samtune.data.sources.traits import Traits
from samtune.errors import DatasetError
from samtune.spec.data import ImageFolderConfig

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"})


class FolderSource(Source):
    """`ROOT/train/CLASS/*` and `ROOT/test/CLASS/*` (or `val`); classes are numbered in the order of their names."""

    def __init__(self, config: ImageFolderConfig) -> None:
        root = root_folder(config.root)
        train = root / "train"
        if not train.is_dir():
            raise DatasetError(
                f"no image folder in {root}: {train} is not there; put images into {train}/CLASS/, "
                f"and those of the test set into {root}/test/CLASS/"
            )
        self._root = root
        self._classes = sorted(path.name for path in train.iterdir() if path.is_dir())
        if not self._classes:
            raise DatasetError(f"{train}: no folder in it (expected one for each class)")
        self._files = {"train": self._list(train), "test": self._list_test(root)}
        shape = (config.channels, config.image_size, config.image_size)
        self.traits = Traits(len(self._classes), shape)
        self._decoder = Decoder(shape, resize=True, skip_damaged=config.on_error == "skip")
        self.options = (str(self._decoder), *self._classes)

    def check(self) -> None:
        found = {path.parent.name for path in self._files["train"]}
        empty = [name for name in self._classes if name not in found]
        if empty:
            raise DatasetError(f"{self._root / 'train' / empty[0]}: no image in it ({', '.join(sorted(_SUFFIXES))})")

    def num_examples(self, split: SplitName) -> int:
        return len(self._files[split])

    def files(self, split: SplitName) -> Sequence[Path]:
        return self._files[split]

    def read(self, split: SplitName) -> tuple[Images, Labels]:
        images, labels = self._decoder.all(self._encoded(split), self.num_examples(split))
        check_arrays(images, labels, self.traits, str(self._root / split))
        return images, labels

    def _encoded(self, split: SplitName) -> Iterator[tuple[str, Callable[[], bytes], int]]:
        numbers = {name: number for number, name in enumerate(self._classes)}
        for path in self._files[split]:
            yield str(path), partial(read_image_file, path), numbers[path.parent.name]

    def _list(self, folder: Path) -> list[Path]:
        return [
            path
            for name in self._classes
            if (folder / name).is_dir()
            for path in sorted((folder / name).iterdir())
            if path.suffix.lower() in _SUFFIXES
        ]

    def _list_test(self, root: Path) -> list[Path]:
        for folder in (root / "test", root / "val"):
            if folder.is_dir():
                unknown = {path.name for path in folder.iterdir() if path.is_dir()} - set(self._classes)
                if unknown:
                    raise DatasetError(f"{folder / min(unknown)}: no such class in {root / 'train'}")
                return self._list(folder)
        return []
