"""What every sampler promises, whichever it is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from helpers.driven import Driven
from optuna.trial import TrialState as OptunaState

from samtune import SearchSpace
from samtune.config.samplers import CMAESConfig, GPConfig, NSGAIIConfig, QMCConfig, RandomConfig, TPEConfig
from samtune.errors import RunError, SpaceError
from samtune.study import TrialState
from samtune.tune.optuna_trials import OptunaTrials, open_study

SAMPLERS: dict[str, dict[str, Any]] = {
    "tpe": {"name": "tpe", "num_startup_trials": 5},
    "gp": {"name": "gp", "num_startup_trials": 8},
    "cmaes": {"name": "cmaes", "population_size": 4},
    "nsgaii": {"name": "nsgaii", "population_size": 6},
    "qmc": {"name": "qmc"},
    "random": {"name": "random"},
    "custom": {"name": "optuna.samplers:NSGAIIISampler", "options": {"population_size": 6}},
}
NUM_TRIALS = 12

SPACE: dict[str, Any] = {
    "name": "contract",
    "data": {"name": "digits"},
    "model": {"name": "digits_cnn"},
    "method": {
        "choice": [
            {"name": "sgd"},
            {"name": "sam", "rho": {"choice": [0.0, {"log_uniform": [0.01, 0.5]}]}, "m": {"choice": ["worker", 16]}},
            {"name": "frob_sam", "rho": {"uniform": [0.0, 0.1], "step": 0.02}, "num_samples": {"log_int": [2, 16]}},
        ]
    },
    "training": {
        "lr": {"log_uniform": [0.01, 0.5]},
        "weight_decay": {"expr": "5e-4 * lr / 0.1"},
        "momentum": {"uniform": [0.5, 0.9]},
        "epochs": {"int": [2, 10], "step": 2},
        "schedule": "multi_step",
        "milestones": {"choice": [[1], [1, 2]]},
    },
    "constraints": ["training.lr * training.momentum <= 0.2"],
}
ALWAYS = {"method.name", "training.lr", "training.momentum", "training.epochs", "training.milestones"}
BRANCH = {"sgd": set(), "sam": {"method.rho", "method.m"}, "frob_sam": {"method.rho", "method.num_samples"}}


def make_space(sampler: dict[str, Any], **changes: Any) -> SearchSpace:
    return SearchSpace.from_dict({**SPACE, "sampler": sampler, **changes})


def make_searcher(space: SearchSpace, folder: Path, name: str = "s") -> Driven:
    return Driven(OptunaTrials(space, open_study(space, name, folder / f"{name}.journal", parallel=False)))


def run(searcher: Driven, num_trials: int, start: int = 0) -> list[dict[str, Any]]:
    """One trial after another, on an objective with a best point."""
    configs = []
    for index in range(start, start + num_trials):
        config = searcher.suggest(f"t{index}")
        if config is None:
            break
        configs.append(config)
        quality = -abs(math.log(config.get("training.lr", 0.1) / 0.1)) - abs(config.get("training.momentum", 0.9) - 0.9)
        record = {"epoch": 1.0, "num_passes": 2.0, "val_accuracy": quality, "sharpness": config.get("method.rho", 0.0)}
        searcher.end(f"t{index}", record)
    return configs


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
class TestEverySampler:
    def test_proposals_keep_bounds_steps_types_branches_and_constraints(
        self, sampler: dict[str, Any], tmp_path: Path
    ) -> None:
        space = make_space(sampler)
        configs = run(make_searcher(space, tmp_path), NUM_TRIALS)
        assert len(configs) == NUM_TRIALS
        for config in configs:
            name = config["method.name"]
            assert set(config) == ALWAYS | BRANCH[name]
            assert all(type(value) in (int, float, str) for value in config.values())
            assert 0.01 <= config["training.lr"] <= 0.5
            assert 0.5 <= config["training.momentum"] <= 0.9
            assert config["training.lr"] * config["training.momentum"] <= 0.2
            assert config["training.epochs"] in (2, 4, 6, 8, 10)
            assert type(config["training.epochs"]) is int
            if name == "sam":
                assert config["method.rho"] == 0.0 or 0.01 <= config["method.rho"] <= 0.5
                assert config["method.m"] in ("worker", 16)
            if name == "frob_sam":
                assert config["method.rho"] in (0.0, 0.02, 0.04, 0.06, 0.08, 0.1)  # and not 0.060000000000000005
                assert type(config["method.num_samples"]) is int
                assert 2 <= config["method.num_samples"] <= 16
            trial = space.trial(config)
            assert trial.training.weight_decay == pytest.approx(5e-3 * config["training.lr"])
            assert trial.training.milestones == {"1": [1], "1, 2": [1, 2]}[config["training.milestones"]]
        assert len({tuple(config.items()) for config in configs}) > NUM_TRIALS // 2

    def test_the_same_seed_gives_the_same_search(self, sampler: dict[str, Any], tmp_path: Path) -> None:
        first, again, other = (
            run(make_searcher(make_space(sampler, seed=seed), tmp_path, name), NUM_TRIALS)
            for name, seed in (("first", 3), ("again", 3), ("other", 4))
        )
        assert first == again
        assert first != other

    def test_a_search_that_goes_on_does_not_repeat_its_points(self, sampler: dict[str, Any], tmp_path: Path) -> None:
        space = make_space(sampler)
        before = run(make_searcher(space, tmp_path), 9)
        resumed = make_searcher(space, tmp_path)
        after = run(resumed, 3, start=9)
        assert not any(config in before for config in after)
        assert sorted(resumed.numbers.values()) == [9, 10, 11]

    def test_several_objectives_are_told(self, sampler: dict[str, Any], tmp_path: Path) -> None:
        objectives = [{"metric": "val_accuracy"}, {"metric": "sharpness"}]
        if sampler["name"] == "cmaes":
            with pytest.raises(SpaceError, match="sampler: cmaes has one objective; for several take tpe"):
                make_space(sampler, objective=objectives)
            return
        searcher = make_searcher(make_space(sampler, objective=objectives), tmp_path)
        configs = run(searcher, NUM_TRIALS)
        complete = [t for t in searcher.source._study.trials if t.state is OptunaState.COMPLETE]
        assert [t.values[1] for t in complete] == [config.get("method.rho", 0.0) for config in configs]
        assert len(searcher.source._study.best_trials) >= 1


def test_options_reach_optuna(tmp_path: Path) -> None:
    from samtune.tune.optuna_samplers import build_sampler

    tpe: Any = build_sampler(TPEConfig(num_startup_trials=3, num_candidates=7, multivariate=True), 0, parallel=True)
    assert (tpe._n_startup_trials, tpe._n_ei_candidates, tpe._constant_liar, tpe._group) == (3, 7, True, True)
    alone: Any = build_sampler(TPEConfig(), 0, parallel=False)
    assert not alone._constant_liar
    gp: Any = build_sampler(GPConfig(num_startup_trials=4, deterministic_objective=True), 0, parallel=False)
    assert (gp._n_startup_trials, gp._deterministic) == (4, True)
    cmaes: Any = build_sampler(CMAESConfig(sigma0=0.3, population_size=9), 0, parallel=False)
    assert (cmaes._sigma0, cmaes._popsize) == (0.3, 9)
    nsgaii: Any = build_sampler(NSGAIIConfig(population_size=12), 0, parallel=False)
    assert nsgaii._population_size == 12
    qmc: Any = build_sampler(QMCConfig(sequence="halton", scramble=False), 0, parallel=False)
    assert (qmc._qmc_type, qmc._scramble) == ("halton", False)
    assert type(build_sampler(RandomConfig(), 0, parallel=False)).__name__ == "RandomSampler"


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        ({"name": "optuna.samplers:NoSuchSampler"}, "sampler.name: optuna.samplers:NoSuchSampler: cannot be imported"),
        ({"name": "no_such_package:Sampler"}, "cannot be imported: No module named 'no_such_package'"),
        ({"name": "math:sqrt"}, "must be a subclass of optuna.samplers.BaseSampler"),
        ({"name": "optuna.samplers:RandomSampler", "options": {"sed": 1}}, "sampler.options: optuna.samplers:Random"),
    ],
)
def test_a_sampler_that_cannot_be_made_says_why(sampler: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(SpaceError) as caught:
        make_searcher(make_space(sampler), tmp_path)
    assert message in str(caught.value)


# -- grid --------------------------------------------------------------------------------------------------------------


GRID: dict[str, Any] = {
    "method": {"choice": [{"name": "sgd"}, {"name": "sam", "rho": {"grid": [0.01, 0.02, 0.05, 0.1, 0.2, 0.5]}}]},
    "training": {"lr": {"grid": [0.05, 0.1]}, "momentum": {"uniform": [0.8, 0.9], "step": 0.05}},
    "constraints": ["lr < 0.1 or momentum < 0.9"],
}


@pytest.mark.parametrize("initial", [[], [{"method.name": "sgd"}], [{"training.lr": 0.05, "training.momentum": 0.85}]])
def test_a_grid_is_gone_through_once_and_then_ends(initial: list[dict[str, Any]], tmp_path: Path) -> None:
    space = SearchSpace.from_dict({**SPACE, **GRID, "initial": initial})
    assert space.sampler.name == "grid"
    assert space.num_trials == 7 * (2 * 3 - 1)
    first = run(make_searcher(space, tmp_path), 10)
    resumed = make_searcher(space, tmp_path)
    rest = run(resumed, 100, start=10)
    assert resumed.source.exhausted
    points = {(c["method.name"], c.get("method.rho"), c["training.lr"], c["training.momentum"]) for c in first + rest}
    rhos = [("sgd", None), *(("sam", rho) for rho in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5))]
    pairs = [(0.05, 0.8), (0.05, 0.85), (0.05, 0.9), (0.1, 0.8), (0.1, 0.85)]
    assert points == {(*rho, *pair) for rho in rhos for pair in pairs}
    assert len(first + rest) == len(points)


def test_the_order_of_a_grid_is_the_seed_s(tmp_path: Path) -> None:
    orders = [
        run(make_searcher(SearchSpace.from_dict({**SPACE, **GRID, "seed": seed}), tmp_path, str(index)), 6)
        for index, seed in enumerate((0, 0, 1))
    ]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


# -- constraints -------------------------------------------------------------------------------------------------------


def test_what_breaks_a_constraint_is_told_as_that_and_counts_as_no_trial(tmp_path: Path) -> None:
    space = make_space({"name": "tpe"}, constraints=["training.lr <= 0.02"])
    searcher = make_searcher(space, tmp_path)
    configs = run(searcher, 5)
    assert all(config["training.lr"] <= 0.02 for config in configs)
    assert list(searcher.numbers.values()) == [0, 1, 2, 3, 4]
    rejected = [trial for trial in searcher.source._study.trials if trial.params["training.lr"] > 0.02]
    assert rejected
    for trial in rejected:
        assert trial.state is OptunaState.PRUNED
        assert trial.constraints["training.lr <= 0.02"] == pytest.approx(trial.params["training.lr"] - 0.02)


def test_a_constraint_that_no_proposal_satisfies_ends_the_search_with_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = make_space({"name": "gp"}, constraints=["lr <= 0.011"])
    searcher = make_searcher(space, tmp_path)
    # Validation has found a point; the search does not.
    monkeypatch.setattr(SearchSpace, "violations", lambda self, config: [config["training.lr"] - 0.005])
    with pytest.raises(RunError, match=r"no configuration was found that satisfies lr <= 0\.011"):
        searcher.suggest("t")


# -- divergence --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rule", "told"), [("fail", None), ("worst", 0.1)])
def test_a_trial_that_diverged_is_told_as_asked(rule: str, told: float | None, tmp_path: Path) -> None:
    searcher = make_searcher(make_space({"name": "random"}, on_divergence=rule), tmp_path)
    for index, value in enumerate((0.3, 0.1, 0.2)):
        searcher.suggest(f"t{index}")
        record = {"epoch": 1.0, "val_accuracy": value}
        searcher.end(f"t{index}", record)
    searcher.suggest("bad")
    searcher.end("bad", state=TrialState.FAILED, diverged=True, error="diverged: train_loss is nan in epoch 1")
    searcher.suggest("worse")
    searcher.end("worse", state=TrialState.FAILED, error="RuntimeError: out of memory")
    complete = [t for t in searcher.source._study.trials if t.user_attrs.get("trial_id") == "bad"]
    assert [t.value for t in complete] == [told]
    assert complete[0].state is (OptunaState.COMPLETE if told else OptunaState.FAIL)
    (worse,) = (t for t in searcher.source._study.trials if t.user_attrs.get("trial_id") == "worse")
    assert worse.state is OptunaState.FAIL


@pytest.mark.parametrize(("epochs", "told"), [("last", 0.5), ("best", 0.9), (2, 0.6)])
def test_the_objective_is_over_the_epochs_asked_for(epochs: str | int, told: float, tmp_path: Path) -> None:
    objective = {"metric": "val_accuracy", "epochs": epochs}
    searcher = make_searcher(make_space({"name": "random"}, objective=objective), tmp_path)
    searcher.suggest("t")
    records = [{"epoch": float(i + 1), "val_accuracy": value} for i, value in enumerate((0.1, 0.9, 0.7, 0.5))]
    searcher.report("t", *records[:3])
    searcher.end("t", *records[3:])
    trial = next(t for t in searcher.source._study.trials if t.state is OptunaState.COMPLETE)
    assert trial.value == pytest.approx(told)
