"""Which examples a trial trains on: the data set, how much of it, the validation split, the augmentation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from samtune.spec.base import Config

Augmentation = Literal["none", "basic"]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class DatasetConfig(Config):
    """What every data set has."""

    validation_fraction: Fraction = 0.1
    """Share of the training set held out as validation data: stratified by class, chosen by `split_seed`."""

    split_seed: Seed = 0
    """Chooses the validation examples and, with `num_train`, the examples used. Independent of the trial's seed."""

    num_train: Annotated[int, Field(ge=2)] | None = None
    """Use only so many training examples, validation included: stratified by class. Default: all."""

    augmentation: Augmentation = "none"
    """`basic`: pad by an eighth of the side (4 pixels for 32x32), crop at random, mirror at random (not digits)."""


class FileDatasetConfig(DatasetConfig):
    """What every data set read from disk has."""

    root: str = "data"
    """Folder that holds the data set; relative to the working directory, `~` is the home folder."""


class DigitsConfig(DatasetConfig):
    """scikit-learn's 1,797 scans of 8x8 pixels: 20% are held out as test set, so 1,438 are left to a search."""

    name: Literal["digits"] = "digits"
    """Data set."""


class Cifar10Config(FileDatasetConfig):
    """CIFAR-10: 50,000 training and 10,000 test images of 3x32x32 pixels in 10 classes.

    `root` holds `cifar-10-batches-py/` (torchvision's format) or `train-00000-of-00001.parquet` and
    `test-00000-of-00001.parquet` (the Hugging Face hub's, columns `img` and `label`).
    """

    name: Literal["cifar10"] = "cifar10"
    """Data set."""

    augmentation: Augmentation = "basic"
    """`basic`: pad by 4 pixels, crop at random, mirror at random."""

    download: bool = False
    """Fetch the data set from its authors' server into `root` if it is not there."""


DataConfig = Annotated[DigitsConfig | Cifar10Config, Field(discriminator="name")]
