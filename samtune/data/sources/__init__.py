"""Data sets on disk, by the name in their configuration. Nothing here imports torch before images are read."""

from __future__ import annotations

from samtune.config.data import (
    BirdsnapConfig,
    DataConfig,
    DiabetesConfig,
    DigitsConfig,
    ImageFolderConfig,
    ImageNetConfig,
    ListedImagesConfig,
    NoDataConfig,
    OwnDataConfig,
    ParquetConfig,
)
from samtune.data.sources.base import DataSource, SplitName
from samtune.data.sources.traits import Traits

__all__ = ["DataSource", "SplitName", "Traits", "open_source"]


def open_source(config: DataConfig) -> DataSource:
    """Finds the files of a data set.

    Raises:
        DatasetError: they are missing; says which were looked for where.
    """
    match config:
        case DigitsConfig():
            from samtune.data.sources.digits import DigitsSource

            return DigitsSource()
        case DiabetesConfig():
            from samtune.data.sources.diabetes import DiabetesSource

            return DiabetesSource(config)
        case ImageFolderConfig() | ImageNetConfig() | BirdsnapConfig():
            from samtune.data.sources.folder import FolderSource

            return FolderSource(config)
        case ListedImagesConfig():
            from samtune.data.sources.listed import find_listed

            return find_listed(config)
        case ParquetConfig():
            from samtune.data.sources.parquet import find_parquet

            return find_parquet(config)
        case OwnDataConfig():
            from samtune.data.sources.own import OwnSource

            return OwnSource(config)
        case NoDataConfig():
            raise AssertionError("a training function loads its own data")
        case _:
            from samtune.data.sources.official import find_official

            return find_official(config)
