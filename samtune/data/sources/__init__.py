"""Data sets on disk, by the name in their configuration. Nothing here imports torch before images are read."""

from __future__ import annotations

from samtune.data.sources.base import Source, SplitName, Traits
from samtune.spec.data import Cifar10Config, DataConfig, DigitsConfig

__all__ = ["Source", "SplitName", "Traits", "open_source"]


def open_source(config: DataConfig) -> Source:
    """Finds the files of a data set.

    Raises:
        DatasetError: they are missing; says which were looked for where.
    """
    match config:
        case DigitsConfig():
            from samtune.data.sources.digits import DigitsSource

            return DigitsSource()
        case Cifar10Config():
            from samtune.data.sources.cifar import find_cifar10

            return find_cifar10(config.root, download=config.download)
