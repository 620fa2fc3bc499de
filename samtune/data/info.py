"""What is known of a data set before any worker starts: its files and sizes. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from samtune.config.data import DataConfig, StreamedConfig
from samtune.data.sources import DataSource, open_source
from samtune.data.sources.base import SplitName, Undownloaded
from samtune.data.sources.examples import ExamplesSource
from samtune.errors import DatasetError

if TYPE_CHECKING:
    from samtune.data.sources.own_stream import OwnStream


@dataclass(frozen=True)
class DatasetInfo:
    """Sizes of a data set as a trial sees it."""

    num_classes: int
    input_shape: tuple[int, ...]
    """(channels, height, width)."""
    num_train: int | None
    """Examples trained on, validation excluded; None: they come from an iterable, which does not tell."""
    num_validation: int | None
    """None: likewise."""
    num_test: int | None = None
    """Where a trial is evaluated on the test set instead."""
    classes: bool = True
    """Whether the targets are classes; else `num_classes` counts the numbers of a target."""
    one_target: bool = True
    """Whether the targets are one tensor; else they are nested, or there are none."""


def check_dataset(config: DataConfig) -> None:
    """Makes sure that the data set can be loaded, without decoding an image.

    Raises:
        DatasetError: files are missing or not in the expected format, or too few for the configuration.
    """
    source = open_source(config)
    source.check()
    _info(config, source)


def dataset_info(config: DataConfig) -> DatasetInfo:
    """Sizes of the data set, from metadata alone.

    Raises:
        DatasetError: files are missing, or there are too few examples for the configuration.
    """
    return _info(config, open_source(config))


def prepare_dataset(config: DataConfig) -> None:
    """Decodes the images that trials of this configuration read into this machine's cache, if they are not there yet.

    A damaged image is found here, once, and not by every trial. Nothing is done for a data set that is not cached: one
    that a worker is going to download, that is read while it is trained on, or that travels with a library.

    Raises:
        DatasetError: an image is damaged (and may not be skipped), or the cache cannot be written.
    """
    from samtune.data.cache import build_cache

    source = open_source(config)
    if isinstance(source, Undownloaded) or (isinstance(config, StreamedConfig) and config.stream):
        return
    build_cache(source, "train", config.name)
    if config.validation_fraction == 0:
        build_cache(source, "test", config.name)


def _info(config: DataConfig, source: DataSource) -> DatasetInfo:
    if config.validation_fraction == 0 and source.num_examples("test") == 0:
        raise DatasetError(f"data.validation_fraction must not be 0: {config.name} has no test set to evaluate instead")
    given = source.num_validation() if config.validation_fraction else 0
    traits, streams = source.traits, streams_of(source)
    num_train: int | None
    num_validation: int | None
    if "train" in streams:
        refuse_what_needs_places(config, given)
        num_train, num_validation = None, given
    else:
        num_train, num_validation = split_sizes(config, source.num_examples("train"), given)
    if given and "validation" in streams:
        num_validation = None
    num_test = None if config.validation_fraction or "test" in streams else source.num_examples("test")
    sizes = traits.num_classes, traits.shape, num_train, num_validation, num_test
    return DatasetInfo(*sizes, classes=traits.classes, one_target=traits.one_target)


def streams_of(source: DataSource) -> Mapping[SplitName, OwnStream]:
    """The splits that are iterables of the user's."""
    return source.streams if isinstance(source, ExamplesSource) else {}


_NEED_PLACES = {
    "folds": "folds are parts of a training set",
    "fraction": "no part of it can be chosen",
    "num_train": "no part of it can be chosen",
    "label_noise": "its labels cannot be changed beforehand",
    "relabel": "its labels cannot be changed beforehand",
    "augmentation": "augment its examples there",
    "cutout": "augment its examples there",
    "mixup": "mix its examples there",
    "cutmix": "mix its examples there",
    "loader_processes": "each worker reads it itself",
}
"""Keys of the data that a training set has which can only be gone through must leave alone."""


def refuse_what_needs_places(config: DataConfig, num_validation: int) -> None:
    """Refuses what cannot be done with a training set that can only be gone through.

    Args:
        num_validation: whether there is a validation set beside it.

    Raises:
        DatasetError: something is asked for that needs to know all examples.
    """
    for key, reason in _NEED_PLACES.items():
        if (
            key in type(config).model_fields
            and (value := getattr(config, key)) != type(config).model_fields[key].default
        ):
            raise DatasetError(f"data.{key}: {config.name} gives an iterable: {reason} (got {value})")
    if config.validation_fraction and not num_validation:
        raise DatasetError(
            f"data.validation_fraction: {config.name} gives an iterable, of which nothing can be held out: "
            "return (train, validation, test)"
        )


def split_sizes(config: DataConfig, available: int, given: int = 0) -> tuple[int, int]:
    """How many of the `available` training examples are trained on, and how many validate.

    Args:
        given: examples of a validation set beside them, from which `validation_fraction` takes none then.

    Raises:
        DatasetError: there are fewer than `num_train`, or one of both parts would be empty.
    """
    share = round(available * config.fraction)
    used = share if config.num_train is None else config.num_train
    if used > share:
        of = config.name if share == available else f"data.fraction {config.fraction} of {config.name}"
        raise DatasetError(f"data.num_train must not exceed the {share} training examples of {of} ({used})")
    if config.folds is not None:
        return _fold_sizes(config, used, given)
    num_validation = 0 if given else round(used * config.validation_fraction)
    if not given and not 0 < num_validation < used and config.validation_fraction > 0:
        raise DatasetError(
            f"data.validation_fraction must leave examples to train and to validate on "
            f"({config.validation_fraction} of {used} is {num_validation})"
        )
    if used == 0:
        raise DatasetError(f"{config.name}: no training example is left (data.fraction {config.fraction})")
    return used - num_validation, given or num_validation


def _fold_sizes(config: DataConfig, used: int, given: int) -> tuple[int, int]:
    """Of the first fold, whose validation part is never smaller than another's."""
    assert config.folds is not None
    if given:
        raise DatasetError(
            f"data.folds: {config.name} has a validation set of its own, which folds would not use: "
            f"return (train, test), or leave folds out (got {config.folds})"
        )
    if config.folds > used:
        raise DatasetError(f"data.folds must not exceed the {used} training examples of {config.name} ({config.folds})")
    num_validation = math.ceil(used / config.folds)
    return used - num_validation, num_validation
