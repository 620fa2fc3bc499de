"""Other tools' ways to write a distribution, each answered with the line to write, which then is valid."""

from __future__ import annotations

import re
from typing import Any

import optuna
import pytest
import yaml
from ray import tune

from samtune import SearchSpace
from samtune.config.distributions import parse_distribution
from samtune.config.foreign import flow, recognize
from samtune.errors import SpaceError

BASE: dict[str, Any] = {
    "name": "d",
    "data": {"name": "digits"},
    "model": {"name": "digits_cnn"},
    "method": {"name": "sam"},
    "training": {"epochs": 2},
}

TABLE = [
    ("{min: 0.01, max: 0.5, log: true}", "W&B's", "{log_uniform: [0.01, 0.5]}"),
    ("{min: 0.01, max: 0.5}", "W&B's", "{uniform: [0.01, 0.5]}"),
    ("{min: 1, max: 8}", "W&B's", "{int: [1, 8]}"),
    ("{values: [0.1, 0.2]}", "W&B's", "{choice: [0.1, 0.2]}"),
    ("{value: 0.1}", "W&B's", "{choice: [0.1]}"),
    ("{distribution: log_uniform_values, min: 1e-4, max: 1e-2}", "W&B's", "{log_uniform: [0.0001, 0.01]}"),
    ("{distribution: log_uniform, min: -4.605170186, max: 0}", "W&B's", "{log_uniform: [0.01, 1.0]}"),  # exponents
    ("{distribution: int_uniform, min: 2, max: 8}", "W&B's", "{int: [2, 8]}"),
    ("{distribution: q_uniform, min: 0, max: 1, q: 0.25}", "W&B's", "{uniform: [0, 1], step: 0.25}"),
    ("{distribution: categorical, values: [a, b]}", "W&B's", "{choice: [a, b]}"),
    ("{type: float, low: 0.01, high: 1, log: true}", "Optuna's", "{log_uniform: [0.01, 1]}"),
    ("{type: int, low: 1, high: 64, log: true}", "Optuna's", "{log_int: [1, 64]}"),
    ("{type: categorical, choices: [a, b]}", "Optuna's", "{choice: [a, b]}"),
    ('trial.suggest_float("lr", 1e-5, 1e-1, log=True)', "Optuna's", "{log_uniform: [1e-5, 0.1]}"),
    ('trial.suggest_int("m", 2, 16, step=2)', "Optuna's", "{int: [2, 16], step: 2}"),
    ('trial.suggest_categorical("m", [2, 4])', "Optuna's", "{choice: [2, 4]}"),
    ("optuna.distributions.FloatDistribution(low=0.1, high=1.0)", "Optuna's", "{uniform: [0.1, 1.0]}"),
    ("tune.loguniform(1e-4, 1e-1)", "Ray Tune's", "{log_uniform: [0.0001, 0.1]}"),
    ("ray.tune.randint(1, 10)", "Ray Tune's", "{int: [1, 9]}"),  # theirs is without the end
    ("tune.quniform(0, 1, 0.5)", "Ray Tune's", "{uniform: [0, 1], step: 0.5}"),
    ("tune.choice([1, 2])", "Ray Tune's", "{choice: [1, 2]}"),
    ("tune.grid_search([1, 2])", "Ray Tune's", "{grid: [1, 2]}"),
    ("{loguniform: [0.1, 1.0]}", "Ray Tune's", "{log_uniform: [0.1, 1.0]}"),
    ("{grid_search: [1, 2]}", "Ray Tune's", "{grid: [1, 2]}"),
    ("{_type: loguniform, _value: [0.01, 0.1]}", "NNI's", "{log_uniform: [0.01, 0.1]}"),
    ("{_type: choice, _value: [1, 2]}", "NNI's", "{choice: [1, 2]}"),
    ("{_type: quniform, _value: [0, 10, 5]}", "NNI's", "{uniform: [0, 10], step: 5}"),
    ("tag(log, interval(0.01, 1.0))", "Hydra's", "{log_uniform: [0.01, 1.0]}"),
    ("interval(0.1, 0.5)", "Hydra's", "{uniform: [0.1, 0.5]}"),
    ("range(1, 9)", "Hydra's", "{int: [1, 8]}"),
    ('hp.uniform("lr", 0.1, 1)', "hyperopt's", "{uniform: [0.1, 1]}"),
    ('hp.loguniform("lr", -4.605170186, 0)', "hyperopt's", "{log_uniform: [0.01, 1.0]}"),
    ("{type: range, bounds: [0.1, 1.0], log_scale: true}", "Ax's", "{log_uniform: [0.1, 1.0]}"),
]


@pytest.mark.parametrize(("written", "tool", "line"), TABLE)
def test_each_spelling_is_recognized_and_its_line_is_a_distribution(written: str, tool: str, line: str) -> None:
    value = yaml.safe_load(written) if written.startswith("{") else written
    value = _numbers(value)
    found = recognize(value)
    assert found is not None
    assert (found.tool, flow(found.native)) == (tool, line)
    assert parse_distribution(_numbers(yaml.safe_load(line))) == parse_distribution(found.native)


def _numbers(value: Any) -> Any:
    """YAML 1.1 takes 1e-4 for text, our reader for a number."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return float(value) if isinstance(value, str) and re.fullmatch(r"\d(\.\d+)?e-?\d+", value) else value


@pytest.mark.parametrize(
    ("made", "line"),
    [
        (tune.loguniform(0.01, 1.0), "{log_uniform: [0.01, 1.0]}"),
        (tune.uniform(0.01, 1.0), "{uniform: [0.01, 1.0]}"),
        (tune.randint(1, 10), "{int: [1, 9]}"),
        (tune.quniform(0.0, 1.0, 0.25), "{uniform: [0.0, 1.0], step: 0.25}"),
        (tune.choice([1, 2]), "{choice: [1, 2]}"),
        (optuna.distributions.FloatDistribution(0.01, 1.0, log=True), "{log_uniform: [0.01, 1.0]}"),
        (optuna.distributions.IntDistribution(1, 9), "{int: [1, 9]}"),
        (optuna.distributions.CategoricalDistribution(["a", "b"]), "{choice: [a, b]}"),
    ],
)
def test_objects_of_other_tools_are_recognized_in_python(made: Any, line: str) -> None:
    found = recognize(made)
    assert found is not None
    assert flow(found.native) == line
    line = line.replace("{int:", "{uniform:")  # lr is no whole number
    with pytest.raises(SpaceError, match=re.escape(f"write `lr: {line}`")):
        SearchSpace.from_dict(BASE | {"training": {"lr": made}})


@pytest.mark.parametrize("value", [0.1, "all", "sqrt(2)", "my_pkg:loss", {"name": "sam"}, {"expr": "lr"}, [1, 2], {}])
def test_what_is_nobody_s_distribution_is_left_alone(value: Any) -> None:
    assert recognize(value) is None


TEXT = """\
name: d
data: digits
model: digits_cnn
method: {name: sam, rho: {min: 0.01, max: 0.5, log: true}, alpha: 3}
training:
  learning_rate: {type: float, low: 0.01, high: 1, log: true}
  momentum: [0.8, 0.9]
  epochs: {loguniform: [1, 10]}
  batch_size: -1
  weight_decay: {distribution: normal, mu: 0, sigma: 1}
search:
  training.label_smoothing: tune.uniform(0, 0.2)
num_trials: none
"""


def test_all_problems_are_said_at_once_each_with_its_line() -> None:
    with pytest.raises(SpaceError) as caught:
        SearchSpace.from_text(TEXT, "d.yaml")
    lines = str(caught.value).splitlines()
    expected = [
        "d.yaml:4: method.rho: is W&B's way to write a distribution; write `rho: {log_uniform: [0.01, 0.5]}`",
        "d.yaml:4: method.alpha: unknown key",
        "d.yaml:6: training.learning_rate: is Optuna's way to write a distribution; "
        "write `lr: {log_uniform: [0.01, 1]}`",
        "d.yaml:7: training.momentum: takes one value; to try several write `momentum: {choice: [0.8, 0.9]}`",
        "d.yaml:8: training.epochs: is Ray Tune's way to write a distribution; write `epochs: {log_int: [1, 10]}`",
        "d.yaml:9: training.batch_size: must be greater than or equal to 1",
        "d.yaml:10: training.weight_decay: is W&B's way to write a distribution; there is no such distribution here",
        "d.yaml:12: search.training.label_smoothing: is Ray Tune's way to write a distribution; write "
        "`label_smoothing: {uniform: [0, 0.2]}`",
        "d.yaml:13: num_trials: must be a valid integer",
    ]
    assert len(lines) == len(expected)
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(start)


def test_a_list_stays_a_list_where_a_key_takes_one_and_options_are_the_users_own() -> None:
    space = SearchSpace.from_dict(
        BASE
        | {
            "model": {"name": "my_pkg:net", "options": {"size": {"min": 1, "max": 2}, "widths": [1, 2]}},
            "training": {"epochs": 2, "schedule": "multi_step", "milestones": [1]},
        }
    )
    assert space.distributions() == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lr=0.1", "with --set lr: unknown key; did you mean 'training.lr'?"),
        ("learning_rate=0.1", "with --set learning_rate: unknown key; did you mean 'training.lr'?"),
        ("training.learning_rate=0.1", "unknown key; did you mean 'lr'?"),
        ("training.wd=0.1", "unknown key; did you mean 'weight_decay'?"),
        ("n_trials=3", "unknown key; did you mean 'num_trials'?"),
        ("rho=0.1", "unknown key; did you mean 'method.rho'?"),
        ("search.lr={uniform: [0.1, 1.0]}", "did you mean 'training.lr'?"),
        ("method=adam", "unknown name 'adam'; Adam is adamw with training.weight_decay: 0"),
        ("method.rho={min: 0.1, max: 1.0}", "with --set method.rho: is W&B's way to write a distribution; write `rho:"),
    ],
)
def test_a_key_by_another_name_is_answered_with_ours(override: str, message: str) -> None:
    with pytest.raises(SpaceError) as caught:
        SearchSpace.from_yaml("digits.yaml", [override])
    assert message in str(caught.value)
