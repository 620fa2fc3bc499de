"""The data sets of the papers' fine-tuning experiments: photographs, listed with their classes in annotation files.

Each is read as its authors distribute it, in the folders in which torchvision keeps it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from samtune.config.data import ListedImagesConfig
from samtune.data.root import root_folder
from samtune.data.sources.base import DataSource, ImageArray, LabelArray, SplitName, Undownloaded, check_arrays
from samtune.data.sources.decode import Decoder, read_image_file
from samtune.data.sources.matlab import read_matlab
from samtune.data.sources.traits import Traits
from samtune.errors import DatasetError

Listing = dict[SplitName, list[tuple[Path, int]]]
"""Image file and class of every example of each split."""


def _flowers102(folder: Path) -> Listing:
    """Its training split here is the authors' training and validation splits together, 2,040 images."""
    labels = read_matlab("loadmat", folder / "imagelabels.mat", squeeze_me=True)["labels"]
    splits = read_matlab("loadmat", folder / "setid.mat", squeeze_me=True)

    def images(*names: str) -> list[tuple[Path, int]]:
        numbers = [int(number) for name in names for number in splits[name].reshape(-1)]
        return [(folder / "jpg" / f"image_{number:05d}.jpg", int(labels[number - 1]) - 1) for number in numbers]

    return {"train": images("trnid", "valid"), "test": images("tstid")}


def _oxford_pets(folder: Path) -> Listing:
    def images(split: str) -> list[tuple[Path, int]]:
        lines = [line.split() for line in (folder / "annotations" / f"{split}.txt").read_text().splitlines()]
        return [(folder / "images" / f"{words[0]}.jpg", int(words[1]) - 1) for words in lines]

    return {"train": images("trainval"), "test": images("test")}


def _stanford_cars(folder: Path) -> Listing:
    def images(annotations: Path, name: str) -> list[tuple[Path, int]]:
        rows = read_matlab("loadmat", annotations, squeeze_me=True)["annotations"].reshape(-1)
        return [(folder / name / str(row["fname"]), int(row["class"]) - 1) for row in rows]

    return {
        "train": images(folder / "devkit" / "cars_train_annos.mat", "cars_train"),
        "test": images(folder / "cars_test_annos_withlabels.mat", "cars_test"),
    }


def _fgvc_aircraft(folder: Path) -> Listing:
    data = folder / "data"
    numbers = {name: number for number, name in enumerate((data / "variants.txt").read_text().splitlines())}

    def images(split: str) -> list[tuple[Path, int]]:
        lines = (data / f"images_variant_{split}.txt").read_text().splitlines()
        pairs = [line.strip().split(" ", 1) for line in lines]
        return [(data / "images" / f"{image}.jpg", numbers[variant]) for image, variant in pairs]

    return {"train": images("trainval"), "test": images("test")}


def _food101(folder: Path) -> Listing:
    def images(split: str) -> list[tuple[Path, int]]:
        by_class: dict[str, list[str]] = json.loads((folder / "meta" / f"{split}.json").read_text())
        return [
            (folder / "images" / f"{image}.jpg", number)
            for number, name in enumerate(sorted(by_class))
            for image in by_class[name]
        ]

    return {"train": images("train"), "test": images("test")}


@dataclass(frozen=True)
class ListedDataset:
    """Where a data set is and how it is listed.

    Attributes:
        folder: under `root`.
        read: the listing of that folder.
        num_classes, num_train, num_test: official sizes.
        torchvision: class that downloads it, and the arguments of each call.
    """

    folder: str
    read: Callable[[Path], Listing]
    num_classes: int
    num_train: int
    num_test: int
    torchvision: str
    downloads: tuple[dict[str, Any], ...] = ({},)


LISTED = {
    "flowers102": ListedDataset("flowers-102", _flowers102, 102, 2040, 6149, "Flowers102"),
    "oxford_pets": ListedDataset("oxford-iiit-pet", _oxford_pets, 37, 3680, 3669, "OxfordIIITPet"),
    "stanford_cars": ListedDataset("stanford_cars", _stanford_cars, 196, 8144, 8041, "StanfordCars"),
    "fgvc_aircraft": ListedDataset("fgvc-aircraft-2013b", _fgvc_aircraft, 100, 6667, 3333, "FGVCAircraft"),
    "food101": ListedDataset("food-101", _food101, 101, 75_750, 25_250, "Food101"),
}


def find_listed(config: ListedImagesConfig) -> DataSource:
    """The data set in `root`; with `download`, it need not be there yet.

    Raises:
        DatasetError: it is missing, or its annotations are.
    """
    description = LISTED[config.name]
    folder = root_folder(config.root) / description.folder
    shape = (3, config.image_size, config.image_size)
    traits = Traits(description.num_classes, shape)
    if not folder.is_dir():
        if config.download:
            return Undownloaded(traits, description.num_train, description.num_test)
        raise DatasetError(
            f"{config.name} is not in {folder.parent}: {description.folder} (as torchvision's "
            f"{description.torchvision} keeps it) is not there; put it there, or set data.download: true"
        )
    try:
        listing = description.read(folder)
    except (OSError, LookupError, ValueError) as error:
        if config.download:
            return Undownloaded(traits, description.num_train, description.num_test)
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{folder}: the annotations of {config.name} cannot be read ({error!r})") from error
    return ListedSource(traits, listing, Decoder(shape, resize=True, on_error=config.on_error))


class ListedSource(DataSource):
    """Image files and their classes."""

    def __init__(self, traits: Traits, listing: Listing, decoder: Decoder) -> None:
        self.traits = traits
        self._listing, self._decoder = listing, decoder
        self.options = (str(decoder), *(str(label) for _, label in listing["train"]))

    def check(self) -> None:
        for examples in self._listing.values():
            missing = [path for path, _ in examples if not path.is_file()]
            if missing:
                raise DatasetError(f"{missing[0]}: missing ({len(missing)} of {len(examples)} images are not there)")

    def num_examples(self, split: SplitName) -> int:
        return len(self._listing[split])

    def files(self, split: SplitName) -> Sequence[Path]:
        return [path for path, _ in self._listing[split]]

    def read(self, split: SplitName) -> tuple[ImageArray, LabelArray]:
        images, labels = self._decoder.all(self._encoded(split), self.num_examples(split))
        check_arrays(images, labels, self.traits, f"the {split} split in {self._listing[split][0][0].parent}")
        return images, labels

    def _encoded(self, split: SplitName) -> Iterator[tuple[str, Callable[[], bytes], int]]:
        for path, label in self._listing[split]:
            yield str(path), partial(read_image_file, path), label
