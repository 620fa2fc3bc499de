"""What a search learns from the trials of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.driven import Driven

from samtune import SearchSpace, Trial, TrialState
from samtune.errors import UsageError
from samtune.experiments.warm_start import Earlier, add_earlier, check_earlier, load_earlier
from samtune.tune.optuna_trials import OptunaTrials, open_study

SPACE = SearchSpace.from_dict(
    {
        "name": "warm",
        "data": {"name": "digits"},
        "model": {"name": "digits_cnn"},
        "method": {"choice": [{"name": "sgd"}, {"name": "sam", "rho": {"log_uniform": [0.01, 0.5]}}]},
        "training": {"lr": {"log_uniform": [0.01, 0.5]}, "epochs": 5},
        "constraints": ["lr <= 0.4"],
    }
)


def trial(number: int, state: TrialState = TrialState.COMPLETED, value: float = 0.9, **params: Any) -> Trial:
    known = {key.replace("__", "."): item for key, item in params.items()}
    return Trial(number, f"t{number}", {}, known, 1, state, [{"epoch": 1.0, "val_accuracy": value}])


def test_only_trials_that_fit_are_used_and_the_others_counted_with_the_reason(tmp_path: Path) -> None:
    study = open_study(SPACE, "s", tmp_path / "journal", parallel=False)
    earlier = [
        trial(0, value=0.7, method__name="sam", method__rho=0.1, training__lr=0.2, training__epochs=9),
        trial(1, value=0.8, method__name="sam", method__rho="0.05", training__lr="0.1"),  # MLflow's texts
        trial(2, value=0.6, method__name="sgd", training__lr=0.3),
        trial(3, value=0.5, training__lr=0.05),  # another study did not know of methods
        trial(4, TrialState.PRUNED, method__name="sgd", training__lr=0.1),
        trial(5, TrialState.FAILED, method__name="sgd", training__lr=0.1),
        trial(6, value=float("nan"), method__name="sgd", training__lr=0.1),
        trial(7, method__name="asam", training__lr=0.1),
        trial(8, method__name="sgd", training__lr=0.9),
        trial(9, method__name="sgd", training__lr=0.45),
        trial(10, model__depth=3),
    ]
    (line,) = add_earlier(study, SPACE, [Earlier("old", earlier)])
    assert line.startswith("warm start: 4 of 11 trials of old are used; not used: 2 (not completed)")
    for reason in ("1 (no val_accuracy)", "1 (method.name outside what is searched)", "1 (breaks a constraint)"):
        assert reason in line
    assert "1 (training.lr outside what is searched)" in line
    assert "1 (no searched key)" in line
    assert line.endswith("they differ in training.epochs, which is not searched")
    assert [(t.value, t.params) for t in study.trials] == [
        (0.7, {"method.name": "sam", "method.rho": 0.1, "training.lr": 0.2}),
        (0.8, {"method.name": "sam", "method.rho": 0.05, "training.lr": 0.1}),
        (0.6, {"method.name": "sgd", "training.lr": 0.3}),
        (0.5, {"training.lr": 0.05}),
    ]


def test_they_are_no_trials_of_the_search_and_the_sampler_learns_from_them(tmp_path: Path) -> None:
    cold = Driven(OptunaTrials(SPACE, open_study(SPACE, "s", tmp_path / "cold", parallel=False)))
    warm_study = open_study(SPACE, "s", tmp_path / "warm", parallel=False)
    near = [
        trial(i, value=1.0 - abs(lr - 0.1), method__name="sgd", training__lr=lr)
        for i, lr in enumerate([0.02, 0.03, 0.09, 0.095, 0.1, 0.105, 0.11, 0.2, 0.25, 0.3, 0.35, 0.38] * 2)
    ]
    add_earlier(warm_study, SPACE, [Earlier("old", near)])
    warm = Driven(OptunaTrials(SPACE, warm_study))
    far: dict[str, float] = {}
    for name, searcher in (("cold", cold), ("warm", warm)):
        lrs = [searcher.suggest(str(index))["training.lr"] for index in range(8)]
        far[name] = sum(abs(lr - 0.1) for lr in lrs) / len(lrs)
        assert list(searcher.numbers.values()) == list(range(8))
    assert far["warm"] < far["cold"]
    again = OptunaTrials(SPACE, open_study(SPACE, "s", tmp_path / "warm", parallel=False))
    assert again.next("more") is not None


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    space = SPACE.replace({"warm_start": ["no-such-study"]})
    for look in (load_earlier, check_earlier):
        with pytest.raises(UsageError, match=r"warm_start\.0: .*no-such-study"):
            look(space, tmp_path, "sqlite:///none.db")


def test_runs_of_an_mlflow_experiment_are_trials_too(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("mine")
    for lr, accuracy in ((0.1, 0.8), (0.2, 0.9)):
        run = client.create_run(experiment)
        client.log_param(run.info.run_id, "training.lr", str(lr))
        for step in (1, 2):
            client.log_metric(run.info.run_id, "val_accuracy", accuracy * step / 2, step=step)
        client.set_terminated(run.info.run_id)
    client.create_run(experiment)  # still runs
    space = SPACE.replace({"warm_start": ["mlflow:mine"]})
    (earlier,) = load_earlier(space, tmp_path, uri)
    study = open_study(space, "s", tmp_path / "journal", parallel=False)
    assert add_earlier(study, space, [earlier]) == ["warm start: 2 of 2 trials of mlflow:mine are used"]
    assert sorted((t.value, t.params["training.lr"]) for t in study.trials) == [(0.8, 0.1), (0.9, 0.2)]
    for look in (load_earlier, check_earlier):
        with pytest.raises(UsageError, match="mlflow:other: no such experiment"):
            look(SPACE.replace({"warm_start": ["mlflow:other"]}), tmp_path, uri)
        with pytest.raises(UsageError, match="mlflow:mine: no such experiment"):
            look(space, tmp_path, f"sqlite:///{tmp_path / 'nowhere.db'}")
        with pytest.raises(UsageError, match=r"mlflow:mine: .*[Cc]onnect"):
            look(space, tmp_path, "http://127.0.0.1:9")  # the port of the discard service
    assert not (tmp_path / "nowhere.db").exists()
    check_earlier(space, tmp_path, uri)
