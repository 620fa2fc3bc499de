"""A file of weights is data: what it names is not imported."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.own_parts import make_net
from torch import nn

from samtune.config.space import SearchSpace
from samtune.config.trial import TrialSpec
from samtune.errors import UsageError
from samtune.experiments.sharpness.subjects import load_subject
from samtune.experiments.trust import UntrustedError
from samtune.models.saved import function_of, load_model, save_weights

HOSTILE = """
import pathlib
pathlib.Path(__file__).with_name("ran").touch()
def make(**anything):
    pathlib.Path(__file__).with_name("ran").touch()
"""


@dataclass(frozen=True)
class Facts:
    num_classes: int = 2
    input_shape: tuple[int, ...] = (2,)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


def spec_of(model: dict[str, Any]) -> TrialSpec:
    sections = {"name": "own", "data": {"name": "digits"}, "method": {"name": "sam"}}
    return SearchSpace.from_dict({**sections, "model": model}).trial({})


def save(path: Path, model: dict[str, Any]) -> str:
    save_weights(str(path), make_net(2, (2,), 3), spec_of(model), Facts())
    return str(path)


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Weights that name a function whose module leaves a file behind."""
    (tmp_path / "hostile_network.py").write_text(HOSTILE)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    yield save(tmp_path / "net.safetensors", {"name": "hostile_network:make"})
    assert not (tmp_path / "ran").exists()


def test_loading_a_network_imports_nothing(hostile: str) -> None:
    with pytest.raises(UsageError, match=r"is made by hostile_network:make, .* give it, load_model\(…, model=…\)"):
        load_model(hostile)


def test_relabeling_takes_only_the_trial_s_own_function(hostile: str) -> None:
    assert function_of(hostile, [spec_of({"name": "mlp"}).model]) is None
    assert function_of(hostile, [spec_of({"name": "helpers.own_parts:make_net"}).model]) is None


def test_measuring_sharpness_asks_first(hostile: str) -> None:
    with pytest.raises(UntrustedError, match=r"imports model\.name hostile_network:make \(.*hostile_network\.py\)"):
        load_subject(hostile)


def test_a_function_that_is_given_builds_the_network(tmp_path: Path) -> None:
    own = {"name": "helpers.own_parts:make_net", "options": {"width": 3}}
    path = save(tmp_path / "net.safetensors", own)
    assert function_of(path, [spec_of(own).model]) is make_net
    network = load_model(path, model=make_net)
    assert isinstance(network, nn.Module)
    assert network(torch.zeros(5, 2)).shape == (5, 2)
