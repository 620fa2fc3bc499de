"""Which trials' weights stay in a study, whatever ends in between."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.simulated import end_study, end_trial, make_study, run_epoch, start_trial

from samtune import Results
from samtune.storage import trial_weights
from samtune.store.kept_weights import KeptWeights
from samtune.study import Objective, Study, Trial, TrialState


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return make_study(tmp_path, "sqlite:///none.db")


def trained(study: Study, keeper: KeptWeights, accuracy: float, state: TrialState = TrialState.COMPLETED) -> Trial:
    """A trial whose workers have written its weights."""
    trial = start_trial(study, [keeper])
    run_epoch(study, trial, [keeper], accuracy)
    write(study, trial.id)
    end_trial(study, trial, [keeper], state)
    return trial


def write(study: Study, trial_id: str) -> None:
    file = Path(trial_weights(study.storage_path, trial_id))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"weights")


def kept(study: Study) -> set[str]:
    return {file.name.removesuffix(".safetensors") for file in (Path(study.storage_path) / "weights").glob("*")}


@pytest.mark.parametrize(("number", "expected"), [(0, set()), (1, {2}), (2, {2, 3}), (9, {0, 1, 2, 3})])
def test_the_best_completed_trials_keep_theirs(study: Study, number: int, expected: set[int]) -> None:
    keeper = KeptWeights(number)
    keeper.on_study_start(study)
    for accuracy in (0.5, 0.6, 0.9, 0.8):
        trained(study, keeper, accuracy)
    trained(study, keeper, 0.95, TrialState.FAILED)  # in its last epoch
    end_study(study, [keeper])
    assert kept(study) == {f"t{trial:03d}" for trial in expected}
    assert number != 1 or study.best is study.trials[2]


def test_of_trials_that_tie_the_best_of_the_study_keeps_its_weights(study: Study) -> None:
    study.objectives = (Objective("val_accuracy", "max"), Objective("num_passes", "min"))
    keeper = KeptWeights(1)
    keeper.on_study_start(study)
    for epochs in (3, 1, 2):
        trial = start_trial(study, [keeper])
        for _ in range(epochs):
            run_epoch(study, trial, [keeper], 0.9)
        write(study, trial.id)
        end_trial(study, trial, [keeper])
    assert study.best is not None
    assert kept(study) == {study.best.id}


def test_a_resumed_study_finds_what_a_killed_driver_left(study: Study) -> None:
    first = KeptWeights(1)
    first.on_study_start(study)
    best, worse = trained(study, first, 0.9), trained(study, first, 0.5)
    running = start_trial(study, [first])
    for trial_id in (
        worse.id,
        running.id,
        "of-no-trial",
    ):
        write(study, trial_id)
    again = KeptWeights(1)
    again.on_study_start(study)
    assert kept(study) == {best.id, running.id}
    run_epoch(study, running, [again], 0.95)
    end_trial(study, running, [again])
    assert kept(study) == {running.id}


def test_a_store_that_does_not_answer_ends_no_search(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(uri: str) -> None:
        raise OSError("away")

    monkeypatch.setattr("samtune.store.kept_weights.delete_file", away)
    monkeypatch.setattr("samtune.store.kept_weights.file_names", away)
    keeper = KeptWeights(0)
    keeper.on_study_start(study)
    trained(study, keeper, 0.5)


def test_the_weights_of_the_best_trial_are_found(study: Study) -> None:
    keeper = KeptWeights(1)
    keeper.on_study_start(study)
    best = trained(study, keeper, 0.9)
    trained(study, keeper, 0.5)
    assert Results(study).best_weights == trial_weights(study.storage_path, best.id)
    keeper = KeptWeights(0)
    keeper.on_study_start(study)
    assert Results(study).best_weights is None
