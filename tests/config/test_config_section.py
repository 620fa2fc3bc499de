"""A space with a training function of the user's, and the section that holds its keys."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from samtune.config.schema import space_schema
from samtune.config.space import SearchSpace
from samtune.errors import SpaceError

OWN: dict[str, Any] = {
    "name": "own",
    "train": "my.py:train",
    "method": {"name": "sam", "rho": {"log_uniform": [0.01, 0.5]}},
    "config": {"width": {"int": [4, 16]}, "augment": {"p": 0.5, "kinds": ["crop", "flip"]}, "lam": 3},
    "search": {"config.augment.p": {"uniform": [0.0, 1.0]}, "config.depth": {"choice": [1, 2]}},
    "constraints": ["config.width >= 4 * depth"],
    "objective": {"metric": "f1", "mode": "max"},
}
DRAWN = {"config.width": 8, "config.depth": 2, "config.augment.p": 0.25, "method.rho": 0.1}


def test_keys_of_ones_own_are_searched_like_any_other() -> None:
    space = SearchSpace.from_dict(OWN)
    assert {key for key, _ in space.distributions()} == DRAWN.keys()
    trial = space.trial(DRAWN)
    assert trial.config == {"width": 8, "depth": 2, "augment": {"p": 0.25, "kinds": ["crop", "flip"]}, "lam": 3}
    params = trial.params()
    assert params["config.augment.p"] == 0.25
    assert params["train"] == "my.py:train"
    assert not [key for key in params if key.startswith(("data", "model")) or key in ("training.ema", "training.loss")]
    assert space.violations({**DRAWN, "config.width": 7}) == [1.0]


def test_an_expression_computes_a_key_of_ones_own() -> None:
    space = SearchSpace.from_dict({**OWN, "config": {"width": {"int": [4, 16]}, "inner": {"expr": "2 * config.width"}}})
    assert space.trial({**DRAWN, "config.width": 5}).config["inner"] == 10


def test_its_yaml_reads_back() -> None:
    space = SearchSpace.from_dict(OWN)
    text = space.to_yaml()
    assert not {"data", "model"} & yaml.safe_load(text).keys()
    assert SearchSpace.from_text(text, "again").model_dump() == space.model_dump()


def test_a_space_without_a_function_has_neither_key() -> None:
    space = SearchSpace.from_yaml("digits.yaml")
    assert not {"train", "config"} & space.model_dump().keys()
    assert not [key for key in space.trial({}).params() if key.startswith(("train.", "config")) or key == "train"]


def test_a_function_takes_the_place_of_data_and_model() -> None:
    space = SearchSpace.from_yaml("digits.yaml", {"search.model.width": {"int": [4, 8]}, "train": "my.py:train"})
    assert space.trial({}).train == "my.py:train"
    assert "model.width" not in space.search
    assert not {"data", "model"} & space.model_dump().keys()


def test_a_population_changes_a_key_of_ones_own_where_it_is_told_to() -> None:
    population = {**OWN, "constraints": [], "scheduler": {"name": "pbt"}}
    assert SearchSpace.from_dict(population).mutations == ["method.rho"]
    population["scheduler"] = {"name": "pbt", "mutations": ["config.augment.p"]}
    assert SearchSpace.from_dict(population).mutations == ["config.augment.p"]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"data": "digits"}, "data: my.py:train makes its own: leave data out (got digits)"),
        ({"data": {"folds": 5}}, "data: needs a name, e.g. {name: …}"),
        (
            {"data": {"name": "no_data", "folds": 5}},
            "data.folds: is for samtune's own loop; my.py:train splits its own data (got 5)",
        ),
        ({"data": {"name": "digits", "folds": 5}}, "data: my.py:train makes its own: leave data out (got digits)"),
        ({"model": "mlp"}, "model: my.py:train makes its own: leave model out (got mlp)"),
        ({"train": "my.py"}, "train: must be folder/file.py:function or package.module:function (got 'my.py')"),
        ({"train": 3}, "train: must be a valid string (got 3)"),
        ({"config": 3, "search": {}}, "config: must be a valid dictionary (got 3)"),
        ({"repeats": 2}, "repeats: must be 1 with train: one call of my.py:train trains one model (got 2)"),
        (
            {"constraints": ["config.widt > 3"]},
            "unknown key 'config.widt'; did you mean 'config.width'?",
        ),
        ({"training": {"ema": 0.9}}, "training.ema: is for samtune's own loop; my.py:train does this itself"),
        ({"search": {"confg.depth": {"choice": [1, 2]}}}, "unknown key; a searched key is in method, training, config"),
        ({"search": {"model.width": {"choice": [1, 2]}}}, "search.model.width: unknown key"),
    ],
)
def test_a_bad_space_is_one_line(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(SpaceError) as caught:
        SearchSpace.from_dict({**OWN, "constraints": [], **changes})
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"config.width": 3}, "config: needs train, a training function, which reads it"),
        ({"model": "no_model"}, "--set model: no_model is for a space with train, a training function"),
        ({"objective.metric": "f1"}, "objective.metric: unknown metric 'f1'"),
    ],
)
def test_what_only_a_function_may_have(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(SpaceError) as caught:
        SearchSpace.from_yaml("digits.yaml", changes)
    assert line in str(caught.value)


def test_the_schema_knows_the_function_and_leaves_its_keys_open() -> None:
    schema = space_schema()
    assert {"train", "config"} <= schema["properties"].keys()
    assert schema["properties"]["config"]["additionalProperties"] is True
    assert "no_model" not in str(schema)
