"""Relative paths mean the folder in which the search was started, wherever they stand and wherever workers run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from samtune.config.space import SearchSpace
from samtune.errors import DatasetError
from samtune.experiments.plan_checks import prepare_files_of
from samtune.experiments.variants import search_variants
from samtune.store.study_folder import located

VIT = "name: torchvision, architecture: vit_b_16"


@pytest.mark.parametrize(
    ("setting", "config", "key", "expected"),
    [
        ("num_trials=1", {}, "data.root", "HERE/data"),  # the default
        ("data.root=./files", {}, "data.root", "HERE/files"),
        ("data.root=/files", {}, "data.root", "/files"),
        ("data.root=~/files", {}, "data.root", str(Path.home() / "files")),
        ("data.root=s3://bucket/files", {}, "data.root", "s3://bucket/files"),
        ("folder=/elsewhere", {}, "data.root", "/elsewhere/data"),
        ("folder=below", {}, "data.root", "HERE/below/data"),
        ("data.root={choice: [a, /b]}", {"data.root": "a"}, "data.root", "HERE/a"),
        ("data.root={choice: [a, /b]}", {"data.root": "/b"}, "data.root", "/b"),
        ("data.relabel={choice: [net.safetensors, null]}", {"data.relabel": None}, "data.relabel", None),
        ("data={choice: [{name: svhn}, {name: cifar10, root: a}]}", {"data.name": "svhn"}, "data.root", "HERE/data"),
        ("data={choice: [{name: svhn}, {name: cifar10, root: a}]}", {"data.name": "cifar10"}, "data.root", "HERE/a"),
        (
            f"model={{choice: [{{{VIT}, weights: w.pt}}, {{{VIT}}}]}}",
            {"model": "torchvision, weights=w.pt"},
            "model.weights",
            "HERE/w.pt",
        ),
    ],
)
def test_paths_are_in_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, config: dict[str, Any], key: str, expected: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    space = located(SearchSpace.from_yaml("cifar.yaml", [setting]))
    assert located(space) is space
    monkeypatch.chdir("/")
    stored = SearchSpace.from_text(space.to_yaml(), "space.yaml")  # as a resumed search reads it, elsewhere
    for one in (space, stored):
        found = one.trial({**_defaults(one), **config}).params()[key]
        assert found == (expected.replace("HERE", str(tmp_path)) if expected else expected)
    assert located(stored) is stored


def test_each_data_set_that_can_be_drawn_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    space = SearchSpace.from_yaml("digits.yaml", ["data={choice: [{name: digits}, {name: cifar10, root: there}]}"])
    with pytest.raises(DatasetError, match=f"cifar10 is not in {tmp_path}/there"):
        prepare_files_of(search_variants(located(space)))


def _defaults(space: SearchSpace) -> dict[str, Any]:
    return {key: value for key, value in space.initial[0].items() if key in dict(space.distributions())}
