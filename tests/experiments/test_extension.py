"""A study goes on in a space that was narrowed or widened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from helpers.studies import SPACE, make_study
from typer.testing import CliRunner

from samtune.cli.app import app
from samtune.config.space import SearchSpace
from samtune.errors import UsageError
from samtune.experiments.extension import Extension, extend
from samtune.experiments.results import Results
from samtune.experiments.tuner import SearchTrials, Tuner
from samtune.study import Study
from samtune.tune.optuna_params import WARM_START

SPACE_OF_12 = {**SPACE, "num_trials": 12}
LR = "search.training.lr"


def _changed(**changes: Any) -> SearchSpace:
    return SearchSpace.from_dict(SPACE_OF_12, changes)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return make_study(tmp_path, name="s", space_yaml=_changed().to_yaml())


def _proposals(study: Study, space: SearchSpace, extension: Extension | None) -> tuple[optuna.Study, list[float], str]:
    """What Optuna knows, the learning rates that it proposes next, and what is told the user."""
    trials = SearchTrials(space)
    trials.extension = extension
    folder = Path(study.storage_path)
    source, lines = trials.source(study, folder, False)
    proposed = []
    for index in range(3):
        proposal = source.next(f"new{index}")
        assert proposal is not None
        proposed.append(float(proposal.config["training.lr"] or 0))
        assert proposal.number == 12 + index  # numbers go on
    return Results(study).optuna_study(), proposed, "\n".join(lines)


def test_the_trials_in_a_narrower_space_count_and_are_learned_from(study: Study) -> None:
    space = _changed(**{LR: {"log_uniform": [0.1, 0.5]}})
    inside = [trial for trial in study if (trial.config["training.lr"] or 0) >= 0.1]  # type: ignore[operator]
    assert 0 < len(inside) < 12
    extension = extend(study, _changed(), space)
    assert (extension.num_fitting, extension.num_other) == (len(inside), 12 - len(inside))
    told, proposed, said = _proposals(study, space, extension)
    known = [trial for trial in told.trials if trial.state is not optuna.trial.TrialState.RUNNING]
    assert sorted(trial.user_attrs["number"] for trial in known) == [trial.number for trial in inside]
    assert all(0.1 <= lr <= 0.5 for lr in proposed)
    assert said == (
        f"extended: {len(inside)} of 12 earlier trials fit the changed space and count; kept, but not counted: "
        f"{12 - len(inside)} (training.lr outside)"
    )


def test_a_plain_resume_afterwards_leaves_the_others_out_too(study: Study) -> None:
    """Also where Optuna's file is lost: it is made again from the records, which have all trials."""
    space = _changed(**{LR: {"log_uniform": [0.1, 0.5]}})
    extension = extend(study, _changed(), space)
    (Path(study.storage_path) / "optuna.journal").unlink()
    told, _, said = _proposals(study, space, None)
    assert said == ""
    known = [trial for trial in told.trials if trial.state is not optuna.trial.TrialState.RUNNING]
    assert len(known) == extension.num_fitting


def test_all_trials_count_in_a_wider_space(study: Study) -> None:
    space = _changed(**{LR: {"log_uniform": [0.001, 2.0]}, "search.training.momentum": {"uniform": [0.8, 0.99]}})
    extension = extend(study, _changed(), space)
    assert (extension.num_fitting, extension.num_other) == (12, 0)
    told, _, said = _proposals(study, space, extension)
    assert said == "extended: 12 of 12 earlier trials fit the changed space and count"
    assert len(told.trials) == 12 + 3


def test_trials_of_other_studies_are_kept_where_they_fit(study: Study) -> None:
    file = Path(study.storage_path) / "optuna.journal"
    backend = optuna.storages.journal.JournalFileBackend(str(file))
    told = optuna.load_study(study_name="s", storage=optuna.storages.JournalStorage(backend))
    kind = optuna.distributions.FloatDistribution(0.01, 0.5, log=True)
    for lr in (0.02, 0.2):
        params = {"method.rho": 0.05, "training.lr": lr}
        found = optuna.trial.create_trial(
            params=params, distributions=dict.fromkeys(params, kind), value=0.5, user_attrs={WARM_START: "old"}
        )
        told.add_trial(found)
    space = _changed(**{LR: {"log_uniform": [0.1, 0.5]}})
    again, _, _ = _proposals(study, space, extend(study, _changed(), space))
    assert [trial.params["training.lr"] for trial in again.trials if WARM_START in trial.user_attrs] == [0.2]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"training.epochs": 5}, "training.epochs: 4 in the study, 5 now: trial 0 would not be what was trained"),
        (
            {"objective": {"metric": "val_loss", "mode": "min"}},
            "its objective is max val_accuracy",
        ),
        ({LR: {"log_uniform": [1.0, 2.0]}}, "none of its trials fits (training.lr outside what is searched)"),
        ({"method.name": "asam"}, "method.name: 'sam' in the study, 'asam' now"),
    ],
)
def test_what_makes_earlier_trials_others_is_refused(study: Study, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError) as refused:
        extend(study, _changed(), _changed(**changes))
    assert problem in str(refused.value)
    assert "warm_start: [s]" in str(refused.value)


def test_as_many_trials_count_as_were_asked_for(tmp_path: Path) -> None:
    narrow = _changed(**{LR: {"log_uniform": [0.1, 0.5]}})
    study = make_study(tmp_path, name="s", space_yaml=_changed().to_yaml())
    num_other = extend(study, _changed(), narrow).num_other
    assert num_other > 0
    tuner = Tuner.resume("s", storage_path=tmp_path, space=narrow, extend=True, num_trials=20)
    assert tuner.space.num_trials == 20 + num_other
    assert tuner.space.search["training.lr"].low == 0.1


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["digits.yaml", "--extend"], "--extend: goes with --resume NAME"),
        (["--resume", "s", "--extend"], "--extend: goes with --space FILE"),
    ],
)
def test_extend_says_what_it_goes_with(arguments: list[str], problem: str) -> None:
    done = CliRunner().invoke(app, ["search", *arguments])
    assert isinstance(done.exception, UsageError)
    assert problem in str(done.exception)
