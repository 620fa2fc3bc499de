"""Where data are looked for and decoded images kept."""

from __future__ import annotations

import os
from pathlib import Path


def root_folder(root: str) -> Path:
    """`root` of a configuration as an absolute path; of a remote one, this machine's copy of its Parquet files."""
    if "://" in root:
        from samtune.data.remote import local_copy

        return local_copy(root)
    return Path(root).expanduser().absolute()


def cache_folder() -> Path:
    """`SAMTUNE_CACHE`, or `~/.cache/samtune`."""
    return Path(os.environ.get("SAMTUNE_CACHE") or "~/.cache/samtune").expanduser().absolute()
