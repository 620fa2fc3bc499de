"""The published data sets that come in two formats: their authors', which torchvision downloads, and the hub's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samtune.config.data import (
    Cifar10Config,
    Cifar100Config,
    FashionMnistConfig,
    MnistConfig,
    SvhnConfig,
)
from samtune.data.root import root_folder
from samtune.data.sources.base import DataSource, SplitName, Undownloaded
from samtune.data.sources.cifar import CIFAR10_BATCHES, CIFAR100_BATCHES, PickleSource
from samtune.data.sources.idx import IdxSource
from samtune.data.sources.parquet import ParquetSource, find_shards
from samtune.data.sources.svhn import SvhnSource
from samtune.data.sources.traits import CIFAR10, CIFAR100, FASHION_MNIST, MNIST, SVHN, Traits
from samtune.errors import DatasetError

OfficialConfig = Cifar10Config | Cifar100Config | SvhnConfig | MnistConfig | FashionMnistConfig


@dataclass(frozen=True)
class Official:
    """Where the files of a published data set are.

    Attributes:
        marker: path under `root` that shows that the authors' files are there.
        open: opens them.
        columns: image and label column of the hub's files.
        subfolder: of the hub's repository that holds its files.
        sizes: official numbers of training and test examples.
        torchvision, downloads: the class that downloads it, and the arguments of each call.
        train_splits: of the hub's files that make the training set.
    """

    traits: Traits
    marker: str
    open: Callable[[Path], DataSource]
    columns: tuple[str, str]
    subfolder: str
    sizes: tuple[int, int]
    torchvision: str
    downloads: tuple[dict[str, Any], ...] = ({},)
    train_splits: tuple[str, ...] = ("train",)


def describe(config: OfficialConfig) -> Official:
    """Where the files of the configured data set are."""
    match config:
        case Cifar10Config():
            return Official(
                traits=CIFAR10,
                marker="cifar-10-batches-py",
                open=lambda root: PickleSource(CIFAR10, root / "cifar-10-batches-py", CIFAR10_BATCHES, "labels"),
                columns=("img", "label"),
                subfolder="plain_text",
                sizes=(50_000, 10_000),
                torchvision="CIFAR10",
            )
        case Cifar100Config():
            return Official(
                traits=CIFAR100,
                marker="cifar-100-python",
                open=lambda root: PickleSource(CIFAR100, root / "cifar-100-python", CIFAR100_BATCHES, "fine_labels"),
                columns=("img", "fine_label"),
                subfolder="cifar100",
                sizes=(50_000, 10_000),
                torchvision="CIFAR100",
            )
        case MnistConfig():
            return _mnist(MNIST, "MNIST", "mnist")
        case FashionMnistConfig():
            return _mnist(FASHION_MNIST, "FashionMNIST", "fashion_mnist")
        case SvhnConfig(extra=extra):
            splits = ("train", "extra") if extra else ("train",)
            return Official(
                traits=SVHN,
                marker="train_32x32.mat",
                open=lambda root: SvhnSource(root, extra=extra),
                columns=("image", "label"),
                subfolder="cropped_digits",
                sizes=(73_257 + 531_131 * extra, 26_032),
                torchvision="SVHN",
                downloads=tuple({"split": split} for split in (*splits, "test")),
                train_splits=splits,
            )


def _mnist(traits: Traits, name: str, subfolder: str) -> Official:
    return Official(
        traits=traits,
        marker=f"{name}/raw",
        open=lambda root: IdxSource(traits, root / name / "raw"),
        columns=("image", "label"),
        subfolder=subfolder,
        sizes=(60_000, 10_000),
        torchvision=name,
    )


def find_official(config: OfficialConfig) -> DataSource:
    """The data set in whichever format `root` holds; with `download`, it need not be there yet.

    Raises:
        DatasetError: it holds neither, or only a part.
    """
    root = root_folder(config.root)
    official = describe(config)
    if (root / official.marker).exists():
        try:
            return official.open(root)
        except DatasetError:
            if not config.download:  # else the rest of it can be fetched
                raise
    for folder in (root, root / official.subfolder, root / "data"):
        shards = [find_shards(folder, split) for split in official.train_splits]
        if shards[0]:
            if not all(shards):
                missing = official.train_splits[shards.index([])]
                raise DatasetError(f"{folder / missing}-00000-of-0000N.parquet: missing (data.extra asks for it)")
            splits: dict[SplitName, list[Path]] = {
                "train": [path for part in shards for path in part],
                "test": find_shards(folder, "test"),
            }
            return ParquetSource(official.traits, splits, *official.columns)
    if config.download:
        return Undownloaded(official.traits, *official.sizes)
    raise DatasetError(
        f"{config.name} is not in {root}: neither {official.marker} (torchvision's format) nor "
        "train-00000-of-00001.parquet (the hub's) is there; put one of them there, or set data.download: true"
    )
