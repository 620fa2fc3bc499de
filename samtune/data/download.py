"""Fetching a data set from its authors' server, through torchvision, when the configuration says so."""

from __future__ import annotations

import os

from filelock import FileLock

from samtune.data.sources import open_source
from samtune.data.sources.base import Undownloaded, root_folder
from samtune.errors import DatasetError
from samtune.spec.data import DataConfig, DownloadableConfig


def download(config: DataConfig) -> None:
    """With `download` on, makes sure that the files are there; one process of a machine fetches, the others wait.

    Raises:
        DatasetError: the download failed.
    """
    if not isinstance(config, DownloadableConfig) or not config.download:
        return
    from samtune.data.sources.official import describe

    root, official = root_folder(config.root), describe(config)
    try:
        root.mkdir(parents=True, exist_ok=True)
        if not os.access(root, os.W_OK) and _is_there(config):
            return
        with FileLock(root / f".{config.name}.lock"):  # whoever holds it may be in the middle of writing files
            if not _is_there(config):
                from torchvision import datasets  # 4 s of import

                for arguments in official.downloads:
                    getattr(datasets, official.torchvision)(root, download=True, **arguments)
    except (OSError, RuntimeError) as error:
        raise DatasetError(f"{config.name} could not be downloaded into {root}: {error}") from error


def _is_there(config: DataConfig) -> bool:
    return not isinstance(open_source(config), Undownloaded)
