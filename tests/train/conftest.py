"""Trials in this process, without Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from samtune.config.space import SearchSpace
from samtune.data import dataset as dataset_module
from samtune.train.trial import TrialRun

SMALL = ["data.num_train=300", "training.epochs=2", "resources.num_workers=1", "search={}", "initial=[]"]


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SAMTUNE_CACHE", str(tmp_path / "cache"))
    yield
    dataset_module.forget_loaded()


@pytest.fixture
def make_run() -> Callable[..., TrialRun]:
    """A trial on digits with these overrides."""

    def make(*overrides: str, config: dict[str, Any] | None = None) -> TrialRun:
        spec = SearchSpace.from_yaml("digits.yaml", [*SMALL, *overrides]).trial(config or {})
        return TrialRun(spec, rank=0, num_workers=1, device=torch.device("cpu"))

    return make
