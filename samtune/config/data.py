"""Which examples a trial trains on: the data set, how much of it, the validation split, the augmentation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from samtune.config.base import Config, ImportPath, own_or_builtin

Augmentation = Literal["none", "basic", "resized_crop", "autoaugment", "randaugment", "trivialaugment"]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
OnError = Literal["error", "skip"]
ImageSize = Annotated[int, Field(ge=4, le=1024)]


class DatasetConfig(Config):
    """What every data set has."""

    validation_fraction: Fraction = 0.1
    """Share of the training set held out as validation data: stratified by class, chosen by `split_seed`. 0: train on
    all of it and evaluate the test set, for the final figures of a configuration that is chosen already."""

    folds: Annotated[int, Field(ge=2)] | None = None
    """k-fold cross-validation instead of `validation_fraction`: a trial trains k networks side by side, each validated
    on another k-th of the training set (stratified by class, chosen by `split_seed`), and its metrics are their means.
    `confirm` and `train` train one network, without folds."""

    split_seed: Seed = 0
    """Chooses the validation examples or the folds and, with `num_train`, the examples used. Independent of the trial's
    seed."""

    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Use only this share of the training set, from its beginning, validation included; 0.1 is the papers' "-S"."""

    num_train: Annotated[int, Field(ge=2)] | None = None
    """Number of examples of that share to use, validation included, stratified by class. Default: all."""

    label_noise: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the training labels changed to another class, uniformly at random; validation and test stay clean."""

    label_noise_seed: Seed | Literal["trial"] = 0
    """Chooses which labels are changed to what: a number, the same noise for every trial, or `trial`, the trial's own
    seed, so that each repeat and replica has its own noise."""

    relabel: str | None = None
    """A trained network (`best.safetensors` of `samtune train` or `samtune confirm`; a path or URI) whose predictions
    replace the training labels: the bootstrap of the papers' label noise (train, relabel, retrain)."""

    augmentation: Augmentation = "none"
    """`basic`: pad by an eighth of the side (4 pixels for 32x32), crop at random, and mirror at random where a mirror
    image keeps its class (not digits). `resized_crop`: enlarge a random box of 8% to 100% of the area, mirror; for
    photographs. The others are basic and then a policy of geometry and colour: autoaugment
    (Cubuk 2019; learned on CIFAR-10, SVHN or ImageNet), randaugment (Cubuk 2020), trivialaugment (Müller 2021)."""

    cutout: Annotated[int, Field(ge=0)] = 0
    """Side in pixels of the square set to the mean at a random place of each image (DeVries & Taylor 2017; the papers
    take 16 for 32x32); 0: none."""

    mixup: Annotated[float, Field(ge=0)] = 0.0
    """α of Mixup (Zhang 2018): each batch is averaged with a permutation of itself with weight Beta(α, α); 0: none."""

    cutmix: Annotated[float, Field(ge=0)] = 0.0
    """α of CutMix (Yun 2019): a box of area Beta(α, α) comes from another example; with `mixup`, every second batch."""


class NoDataConfig(DatasetConfig):
    """What the trials of a training function have, which loads its own data."""

    name: Literal["no_data"] = "no_data"
    """There is none."""


class FileDatasetConfig(DatasetConfig):
    """What every data set read from disk has."""

    root: str = "data"
    """Folder that holds the data set; relative to the working directory, `~` is the home folder."""


class DownloadableConfig(FileDatasetConfig):
    """What every data set that torchvision can fetch has."""

    augmentation: Augmentation = "basic"
    """none, basic (pad, crop, mirror), resized_crop, or a policy: autoaugment, randaugment, trivialaugment."""

    download: bool = False
    """Fetch the data set from its authors' server into `root` if it is not there."""


class DigitsConfig(DatasetConfig):
    """scikit-learn's 1,797 scans of 8x8 pixels: 20% are held out as test set, so 1,438 are left to a search."""

    name: Literal["digits"] = "digits"
    """Data set."""


class DiabetesConfig(DatasetConfig):
    """scikit-learn's 442 patients: ten measurements, and the progression of diabetes a year later, a number.

    20% are held out as test set, so 354 are left to a search. Measurements and target are standardized by these:
    `val_rmse` counts in standard deviations of the progression, 77 of its points. Wants a loss of numbers, as mse.
    """

    name: Literal["diabetes"] = "diabetes"
    """Data set."""


class Cifar10Config(DownloadableConfig):
    """CIFAR-10: 50,000 training and 10,000 test images of 3x32x32 pixels in 10 classes.

    `root` holds `cifar-10-batches-py/` (torchvision's format) or `train-00000-of-00001.parquet` and
    `test-00000-of-00001.parquet` (the Hugging Face hub's, columns `img` and `label`).
    """

    name: Literal["cifar10"] = "cifar10"
    """Data set."""


class Cifar100Config(DownloadableConfig):
    """CIFAR-100: 50,000 training and 10,000 test images of 3x32x32 pixels in 100 classes.

    `root` holds `cifar-100-python/` or the hub's Parquet files (columns `img` and `fine_label`).
    """

    name: Literal["cifar100"] = "cifar100"
    """Data set."""


class SvhnConfig(DownloadableConfig):
    """SVHN, house numbers: 73,257 training, 26,032 test and 531,131 extra images of 3x32x32 pixels in 10 classes.

    `root` holds `train_32x32.mat`, `test_32x32.mat` (and `extra_32x32.mat`) or the hub's Parquet files.
    """

    name: Literal["svhn"] = "svhn"
    """Data set."""

    extra: bool = False
    """Train on the extra images too, as Foret et al. do (appendix B.1); Tahmasebi et al. train without them."""


class MnistConfig(DownloadableConfig):
    """MNIST: 60,000 training and 10,000 test images of 1x28x28 pixels in 10 classes.

    `root` holds `MNIST/raw/train-images-idx3-ubyte` and so on (`.gz` or not) or the hub's Parquet files.
    """

    name: Literal["mnist"] = "mnist"
    """Data set."""


class FashionMnistConfig(DownloadableConfig):
    """Fashion-MNIST: 60,000 training and 10,000 test images of 1x28x28 pixels in 10 classes.

    `root` holds `FashionMNIST/raw/train-images-idx3-ubyte` and so on (`.gz` or not) or the hub's Parquet files.
    """

    name: Literal["fashion_mnist"] = "fashion_mnist"
    """Data set."""


class ImageFilesConfig(FileDatasetConfig):
    """What every data set of encoded images of any size has."""

    on_error: OnError = "error"
    """An image that cannot be decoded: stop, or leave it out with a warning that counts them."""

    channels: Literal[1, 3] = 3
    """3: colour, 1: grey; images are converted."""

    policy: Literal["cifar10", "svhn", "imagenet"] = "imagenet"
    """Data set whose learned AutoAugment policy is used (with `augmentation: autoaugment`)."""


class StreamedConfig(Config):
    """What data sets have whose images may be read while they are trained on."""

    stream: bool = False
    """Read and decode images while training, in processes of their own, instead of once into a cache file: for data
    sets that are too large for that, as ImageNet. `resized_crop` then takes its boxes from the whole photograph."""

    loader_processes: Annotated[int, Field(ge=0, le=256)] = 4
    """With `stream`: processes of each worker that read; the result does not depend on it. 0: the worker itself."""

    prefetch: Annotated[int, Field(ge=1, le=64)] = 2
    """With `stream`: batches that each of these processes is ahead."""

    eval_crop: Annotated[float, Field(gt=0, le=1)] = 0.875
    """With `stream`: share of the shorter side that is evaluated, the rest is cut off; 0.875 is 224 of 256 pixels."""


class ListedImagesConfig(DownloadableConfig):
    """Photographs of the papers' fine-tuning experiments, in the folders that torchvision makes."""

    name: Literal["flowers102", "oxford_pets", "stanford_cars", "fgvc_aircraft", "food101"]
    """Data set."""

    augmentation: Augmentation = "resized_crop"
    """none, basic (pad, crop, mirror), resized_crop, or a policy: autoaugment, randaugment, trivialaugment."""

    image_size: ImageSize = 224
    """Side in pixels: each image is resized so that its shorter side fits, and its centre is cropped."""

    on_error: OnError = "error"
    """An image that cannot be decoded: stop, or leave it out with a warning that counts them."""


class ImageFolderConfig(StreamedConfig, ImageFilesConfig):
    """A folder per class: `ROOT/train/CLASS/*.jpg`, and `ROOT/test/CLASS/*.jpg` (or `val`) as test set."""

    name: Literal["image_folder"] = "image_folder"
    """Data set."""

    image_size: ImageSize
    """Side in pixels: each image is resized so that its shorter side fits, and its centre is cropped."""


class ImageNetConfig(StreamedConfig, ImageFilesConfig):
    """ImageNet (ILSVRC 2012): 1.28M training and 50,000 test images in 1,000 classes.

    `root` holds `imagenet/train/n01440764/*.JPEG` and `imagenet/val/n01440764/*.JPEG`, and so on for every class.
    """

    name: Literal["imagenet"] = "imagenet"
    """Data set."""

    augmentation: Augmentation = "resized_crop"
    """none, basic (pad, crop, mirror), resized_crop, or a policy: autoaugment, randaugment, trivialaugment."""

    image_size: ImageSize = 224
    """Side in pixels."""

    stream: bool = True
    """Read and decode images while training; off: once into a cache file, of 200 GB at 224 pixels."""


class BirdsnapConfig(StreamedConfig, ImageFilesConfig):
    """Birdsnap: 47,386 training and 2,443 test photographs in 500 classes, as far as they are still to be had.

    `root` holds `birdsnap/train/CLASS/*.jpg` and `birdsnap/test/CLASS/*.jpg`.
    """

    name: Literal["birdsnap"] = "birdsnap"
    """Data set."""

    augmentation: Augmentation = "resized_crop"
    """none, basic (pad, crop, mirror), resized_crop, or a policy: autoaugment, randaugment, trivialaugment."""

    image_size: ImageSize = 224
    """Side in pixels."""


class ParquetConfig(ImageFilesConfig):
    """Any data set of images in the hub's layout: `ROOT/train-00000-of-0000N.parquet`, `test-…` (or `validation-…`)."""

    name: Literal["parquet"] = "parquet"
    """Data set."""

    image_column: str = "image"
    """Column with the encoded images: a struct `{bytes, path}`."""

    label_column: str = "label"
    """Column with the class: integers from 0."""

    image_size: ImageSize | None = None
    """Side in pixels, as for image_folder. Default: the images as they are, all of one size."""


class OwnDataConfig(DatasetConfig):
    """Your own data: a function that returns the training and the test set."""

    name: ImportPath
    """`package.module:function`. Returns (train, test) or (train, validation, test); each is a pair of tensors
    (inputs [N, ...], targets [N, ...]), a torch Dataset of (input, target), map-style or iterable, or a function that
    returns a fresh iterator over such; test may be None. An iterable training set needs `training.steps`, and a
    validation set beside it. A validation set of its own is used instead of a share of the training set, whatever
    `validation_fraction` says, but for 0. Whole numbers [N] as targets are classes. Inputs and targets may be dicts,
    lists and tuples of tensors, and targets None. Inputs of uint8 [3 or 1, H, W] are images: they are augmented and
    normalised here. Others reach the network as they are."""

    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the function."""

    num_classes: Annotated[int, Field(ge=1)] | None = None
    """Outputs of the network. Default: the largest class of the training set plus one; of targets that are not classes,
    the numbers of one."""

    loader_processes: Annotated[int, Field(ge=0, le=256)] = 0
    """Processes of each worker that read a torch Dataset; the result does not depend on it. 0: the worker itself."""

    prefetch: Annotated[int, Field(ge=1, le=64)] = 2
    """Batches that each of these processes is ahead."""

    def __hash__(self) -> int:
        return hash(self.model_dump_json())


BuiltinDataConfig = Annotated[
    NoDataConfig
    | DigitsConfig
    | DiabetesConfig
    | Cifar10Config
    | Cifar100Config
    | SvhnConfig
    | MnistConfig
    | FashionMnistConfig
    | ListedImagesConfig
    | ImageNetConfig
    | BirdsnapConfig
    | ImageFolderConfig
    | ParquetConfig,
    Field(discriminator="name"),
]
DataConfig = Annotated[
    Annotated[BuiltinDataConfig, Tag("builtin")] | Annotated[OwnDataConfig, Tag("own")],
    Discriminator(own_or_builtin),
]
