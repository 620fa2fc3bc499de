"""Fetching a data set from its authors' server, through torchvision, when the configuration says so."""

from __future__ import annotations

import os
from typing import Any

from filelock import FileLock

from samtune.config.data import DataConfig, DownloadableConfig
from samtune.data.root import root_folder
from samtune.data.sources import open_source
from samtune.data.sources.base import Undownloaded
from samtune.errors import DatasetError, RunError, is_machine_fault


def download(config: DataConfig) -> None:
    """With `download` on, makes sure that the files are there; one process of a machine fetches, the others wait.

    Raises:
        DatasetError: the download failed.
        RunError: because the disk is full or fails.
    """
    if not isinstance(config, DownloadableConfig) or not config.download:
        return
    root = root_folder(config.root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        if not os.access(root, os.W_OK) and _is_there(config):
            return
        with FileLock(root / f".{config.name}.lock"):  # whoever holds it may be in the middle of writing files
            if not _is_there(config):
                from torchvision import datasets  # 4 s of import

                name, calls = _torchvision_calls(config)
                for arguments in calls:
                    getattr(datasets, name)(root, download=True, **arguments)
    except (OSError, RuntimeError) as error:
        kind = RunError if is_machine_fault(error) else DatasetError
        raise kind(f"{config.name} could not be downloaded into {root}: {error}") from error


def _torchvision_calls(config: DataConfig) -> tuple[str, tuple[dict[str, Any], ...]]:
    """The class to call, and the arguments of each call."""
    from samtune.data.sources.listed import LISTED
    from samtune.data.sources.official import OfficialConfig, describe

    if isinstance(config, OfficialConfig):
        official = describe(config)
        return official.torchvision, official.downloads
    listed = LISTED[config.name]
    return listed.torchvision, listed.downloads


def _is_there(config: DataConfig) -> bool:
    return not isinstance(open_source(config), Undownloaded)
