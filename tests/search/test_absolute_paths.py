"""Relative paths of a space become absolute wherever they stand, so that workers in another folder find the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from samtune.search.folders import with_absolute_paths
from samtune.spec.space import SearchSpace

VIT = "name: torchvision, architecture: vit_b_16"


@pytest.mark.parametrize(
    ("setting", "place", "expected"),
    [
        ("num_trials=1", "data.root", "HERE/data"),  # the default
        ("data.root=files", "data.root", "HERE/files"),
        ("data.root=/files", "data.root", "/files"),
        ("data.root=s3://bucket/files", "data.root", "s3://bucket/files"),
        ("data.root={choice: [a, /b]}", "search.data.root", {"choice": ["HERE/a", "/b"]}),
        ("search.data.root={choice: [a, b]}", "search.data.root", {"choice": ["HERE/a", "HERE/b"]}),
        (
            "data.relabel={choice: [net.safetensors, null]}",
            "search.data.relabel",
            {"choice": ["HERE/net.safetensors", None]},
        ),
        (
            "data={choice: [{name: cifar10, root: a}, {name: cifar100, root: {choice: [b, c]}}]}",
            "data",
            {
                "choice": [
                    {"name": "cifar10", "root": "HERE/a"},
                    {"name": "cifar100", "root": {"choice": ["HERE/b", "HERE/c"]}},
                ]
            },
        ),
        (
            f"model={{choice: [{{{VIT}, weights: w.pt}}, {{{VIT}}}]}}",
            "model",
            {
                "choice": [
                    {"name": "torchvision", "architecture": "vit_b_16", "weights": "HERE/w.pt"},
                    {"name": "torchvision", "architecture": "vit_b_16"},
                ]
            },
        ),
    ],
)
def test_paths_become_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, place: str, expected: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    space = with_absolute_paths(SearchSpace.from_yaml("cifar.yaml", [setting]))
    found: Any = space.model_dump()
    section, _, key = place.partition(".")
    found = found[section][key] if key else found[section]
    assert found == _at(tmp_path, expected)
    assert with_absolute_paths(space) is space


def test_a_point_to_try_first_still_names_its_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = ["data.root={choice: [a, b]}", "initial=[{data.root: b, method.rho: 0.1}]"]
    space = with_absolute_paths(SearchSpace.from_yaml("cifar.yaml", settings))
    assert space.initial == [{"data.root": f"{tmp_path}/b", "method.rho": 0.1}]


def _at(folder: Path, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _at(folder, item) for key, item in value.items()}
    if isinstance(value, list):
        return [_at(folder, item) for item in value]
    return value.replace("HERE", str(folder)) if isinstance(value, str) else value
