"""The user's own functions in a space."""

from __future__ import annotations

import pytest

from samtune.config.space import SearchSpace
from samtune.errors import UsageError
from samtune.user_code import given_functions, name_function, resolve_function


def make_net(num_classes: int, input_shape: tuple[int, ...]) -> None: ...


def make_data() -> None: ...


def loss(outputs: object, targets: object) -> None: ...


def test_functions_may_stand_in_a_space_and_its_yaml_names_them() -> None:
    space = SearchSpace.from_dict(
        {
            "name": "own",
            "model": {"name": make_net, "options": {"width": 3}},
            "data": make_data,
            "method": {"name": "sam"},
            "training": {"loss": loss, "metrics": [make_net, make_data]},
        }
    )
    assert (space.model.name, space.data.name) == ("given:make_net", "given:make_data")
    assert space.training.metrics == ["given:make_net", "given:make_data"]
    assert "name: given:make_net" in space.to_yaml()
    params = space.trial({}).params()
    assert given_functions(params.values()) == {
        "given:make_net": make_net,
        "given:make_data": make_data,
        "given:loss": loss,
    }
    assert resolve_function("given:make_net", "model.name") is make_net


def test_a_pair_of_data_becomes_a_function_that_returns_it() -> None:
    pair = ([1], [2])
    path = name_function(pair, "data")
    assert path == "given:data"
    assert resolve_function(path, "data.name")() is pair


def test_a_lambda_is_called_by_what_it_is_for() -> None:
    assert name_function(lambda: None, "loss") == "given:loss"


def test_a_function_that_this_process_was_not_given() -> None:
    with pytest.raises(UsageError, match=r"model.name: given:other is a Python object of the process that began"):
        resolve_function("given:other", "model.name")


@pytest.mark.parametrize(
    ("metrics", "taken"), [(["own:accuracy"], "accuracy"), (["a:f", "b:f"], "f"), ([lambda: 0, lambda: 1], "metrics")]
)
def test_two_metrics_of_one_name_are_refused(metrics: list[object], taken: str) -> None:
    with pytest.raises(UsageError, match=rf"training.metrics: .* {taken} is taken"):
        SearchSpace.from_dict(
            {
                "name": "own",
                "data": {"name": "digits"},
                "model": {"name": "digits_cnn"},
                "method": {"name": "sam"},
                "training": {"metrics": metrics},
            }
        )
