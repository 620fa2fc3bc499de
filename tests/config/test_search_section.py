"""Samplers, schedulers, objectives and budgets: what fits together."""

from __future__ import annotations

import pytest

from samtune import SearchSpace
from samtune.errors import SpaceError


def digits(*overrides: str) -> SearchSpace:
    return SearchSpace.from_yaml("digits.yaml", overrides)


def test_objectives_are_one_or_several() -> None:
    one = digits()
    assert one.objectives == (one.objective,)
    assert (one.objective.metric, one.objective.mode, one.objective.epochs) == ("val_accuracy", "max", "last")
    two = digits("objective=[{metric: val_accuracy, epochs: best}, {metric: sharpness, epochs: 3}]")
    assert [(o.metric, o.mode, o.epochs) for o in two.objectives] == [
        ("val_accuracy", "max", "best"),
        ("sharpness", "min", 3),
    ]
    for space in (one, two):
        assert SearchSpace.from_dict(space.model_dump()).objectives == space.objectives
        assert "objective" in space.to_yaml()


def test_a_population_begins_with_a_sampler_that_does_not_learn() -> None:
    space = SearchSpace.from_dict({**without_sampler(), "scheduler": {"name": "pbt"}})
    assert space.sampler.name == "random"
    assert space.mutations == ["method.rho", "training.lr", "training.weight_decay"]
    chosen = digits("sampler={name: qmc}", "scheduler={name: pb2, mutations: [training.lr]}")
    assert chosen.mutations == ["training.lr"]
    assert digits().mutations == []


def without_sampler() -> dict[str, object]:
    return {key: value for key, value in digits().model_dump().items() if key != "sampler"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective=[{metric: val_accuracy}, {metric: val_accuracy}]"], "objective: names a metric twice"),
        (["objective=[{metric: val_loss}, {metric: shrpness}]"], "objective.1.metric: unknown metric 'shrpness'; did"),
        (["objective=[{metric: val_loss, epoch: 3}]"], "objective.0.epoch: unknown key; did you mean 'epochs'?"),
        (["objective.epochs=0"], "objective.epochs: must be 'last' or 'best', or greater than or equal to 1 (got 0)"),
        (["objective=[]"], "objective: "),
        (
            ["objective=[{metric: val_loss}, {metric: sharpness}]", "scheduler={name: asha}"],
            "scheduler: asha compares trials by one metric; with several objectives it must be none",
        ),
        (
            ["objective=[{metric: val_loss}, {metric: sharpness}]", "sampler={name: cmaes}"],
            "sampler: cmaes has one objective",
        ),
        (
            ["scheduler={name: pbt}"],
            "sampler: pbt changes what a sampler has proposed, which tpe would",
        ),
        (["scheduler={name: pbt}", "sampler={name: random}", "repeats=2"], "repeats: must be 1 with pbt"),
        (["scheduler={name: pbt}", "sampler={name: random}", "num_trials=1"], "num_trials: pbt needs a population of"),
        (
            ["scheduler={name: pbt, mutations: [training.rl]}", "sampler={name: random}"],
            "scheduler.mutations.0: is not a searched key (got 'training.rl'; did you mean 'training.lr'?)",
        ),
        (
            [
                "scheduler={name: pbt, mutations: [training.epochs]}",
                "sampler={name: random}",
                "search.training.epochs={int: [1, 3]}",
            ],
            "scheduler.mutations.0: cannot change while a trial runs",
        ),
        (
            ["scheduler={name: pb2}", "sampler={name: random}", "search.method.rho={choice: [0.1, 0.2]}", "initial=[]"],
            "pb2 changes real intervals only (method.rho is choice 0.1, 0.2)",
        ),
        (
            ["scheduler={name: pbt}", "sampler={name: random}", "constraints=['rho < 1']"],
            "constraints.0: pbt cannot keep it, since it changes method.rho",
        ),
        (["scheduler={name: hyperband, resource: steps}"], "scheduler.resource: must be 'epochs' or 'passes'"),
        (["sampler={name: gpp}"], "sampler: unknown name 'gpp'; did you mean 'gp'?"),
        (
            ["sampler={name: tpe, n_startup_trials: 3}"],
            "sampler.n_startup_trials: unknown key; did you mean",
        ),
        (["sampler={name: grid}"], "search.method.rho: sampler grid needs values that can be listed"),
        (["budget={second: 3}"], "budget.second: unknown key; did you mean 'seconds'?"),
        (["budget={patience: 0}"], "budget.patience: must be greater than or equal to 1 (got 0)"),
        (["on_divergence=stop"], "on_divergence: must be 'fail' or 'worst' (got 'stop'"),
    ],
)
def test_what_does_not_fit_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(SpaceError) as caught:
        digits(*overrides)
    assert message in str(caught.value)


def test_a_grid_without_a_number_of_trials_runs_all() -> None:
    data = {key: value for key, value in without_sampler().items() if key not in ("num_trials", "search", "initial")}
    data["search"] = {"method.rho": {"grid": [0.01, 0.05]}, "training.lr": {"uniform": [0.1, 0.3], "step": 0.1}}
    assert SearchSpace.from_dict(data).num_trials == 6
    assert SearchSpace.from_dict({**data, "constraints": ["rho < 0.05 or lr < 0.2"]}).num_trials == 4
    assert SearchSpace.from_dict({**data, "num_trials": 3}).num_trials == 3
    data["search"] = {"training.batch_size": {"int": [1, 10**9]}, "method.rho": {"grid": [0.1]}}
    with pytest.raises(SpaceError, match="num_trials: is required: the grid has more than 20,000 points"):
        SearchSpace.from_dict(data)
