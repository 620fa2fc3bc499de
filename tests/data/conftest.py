"""Every data test has a decoded-image cache of its own, and a file in each real format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from samtune.data import dataset as dataset_module


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "cache"
    monkeypatch.setenv("SAMTUNE_CACHE", str(folder))
    yield folder
    dataset_module.forget_loaded()
