"""Where data are looked for and decoded images kept."""

from __future__ import annotations

import os
from pathlib import Path


def root_folder(root: str) -> Path:
    """`root` of a configuration as an absolute path."""
    return Path(root).expanduser().absolute()


def cache_folder() -> Path:
    """`SAMTUNE_CACHE`, or `~/.cache/samtune`."""
    return Path(os.environ.get("SAMTUNE_CACHE") or "~/.cache/samtune").expanduser().absolute()
