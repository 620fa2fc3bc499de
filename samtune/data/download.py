"""Fetching a data set from its authors' server, through torchvision, when the configuration says so."""

from __future__ import annotations

from filelock import FileLock

from samtune.data.sources import open_source
from samtune.data.sources.base import Undownloaded, root_folder
from samtune.errors import DatasetError
from samtune.spec.data import DataConfig, DownloadableConfig


def download(config: DataConfig) -> None:
    """Makes sure that the files of a data set are there; one process of a machine downloads, the others wait.

    Raises:
        DatasetError: the files are missing and `download` is off, or the download failed.
    """
    if not isinstance(config, DownloadableConfig) or not isinstance(open_source(config), Undownloaded):
        return
    from torchvision import datasets  # 4 s of import

    from samtune.data.sources.official import describe

    root, official = root_folder(config.root), describe(config)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{config.name}.lock"):
            if isinstance(open_source(config), Undownloaded):
                for arguments in official.downloads:
                    getattr(datasets, official.torchvision)(root, download=True, **arguments)
    except (OSError, RuntimeError) as error:
        raise DatasetError(f"{config.name} could not be downloaded into {root}: {error}") from error
