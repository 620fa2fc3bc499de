"""What `--resume` and `status` refuse."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from helpers.command import Run
from helpers.studies import make_study
from mlflow.tracking import MlflowClient

from samtune import SearchSpace, Tuner, UsageError
from samtune.store.journal import FILE_NAME, read_journal


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A study of one trial that its driver left behind."""
    folder = tmp_path / "samtune-results" / "mine"
    folder.mkdir(parents=True)
    study = {
        "event": "study",
        "time": 1.0,
        "name": "mine",
        "kind": "search",
        "num_trials": 16,
        "space_yaml": SearchSpace.from_yaml("digits.yaml").to_yaml(),
        "plan": {},
        "storage_path": str(folder),
        "tracking_uri": f"sqlite:///{tmp_path}/samtune-results/mlflow.db",
        "experiment": "digits",
        "command": "samtune search",
        "objectives": [{"metric": "val_accuracy", "mode": "max", "epochs": "last"}],
        "versions": {},
        "experiment_id": None,
        "parent_run_id": None,
        "started_at": 0.0,
    }
    trial = {"event": "trial", "time": 2.0, "id": "a", "number": 0, "config": {}, "params": {}, "num_epochs": 12}
    trial |= {"started_at": 1.0, "perturbations": []}
    lines = [study, trial, {"event": "epoch", "time": 3.0, "id": "a", "metrics": {"epoch": 1.0}, "place": None}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / FILE_NAME).write_text(text + '{"event": "epo')  # the driver died while it wrote
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("search", "--resume", "mien"), "no study of that name"),
        (("search", "--resume", "mien"), "did you mean 'mine'?"),
        (
            ("search", "--resume", "mine", "--num-trials", "0"),
            "has begun 1 trial; 1 completes it and ends",
        ),
        (("search", "--resume", "mine", "--seed", "3"), "the study has its own --seed; leave it out"),
        (("search", "--resume", "mine", "--set", "seed=3"), "the study has its own --set seed; leave it out"),
        (("search", "--resume", "mine", "--set", "budget.passe=3"), "budget.passe: unknown key"),
        (
            ("search", "--resume", "mine", "--space", "digits.yaml", "--set", "training.epochs=3"),
            "the space is not the study's: training.epochs: 12 in the study, 3 now",
        ),
        (("search",), "a search space is required, such as `samtune search digits.yaml`"),
        (("train",), "a search space is required"),
        (("search", "a.yaml", "--space", "b.yaml"), "--space b.yaml: the space is a.yaml already; give one"),
        (("status", "mien"), "no study of that name"),
    ],
)
def test_what_cannot_be_resumed_is_one_line_and_exit_code_2(
    samtune: Run, stored: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = samtune(*arguments)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert message in line


def test_a_complete_study_says_so_without_ray_and_keeps_its_times(samtune: Run, tmp_path: Path) -> None:
    storage = tmp_path / "samtune-results"
    space = SearchSpace.from_yaml("digits.yaml", ["num_trials=12"])
    study = make_study(storage, space_yaml=space.to_yaml())
    before = read_journal(storage / study.name)
    done = samtune("search", "--resume", study.name, env={"RAY_TMPDIR": str(tmp_path / "ray")})
    assert done.returncode == 0, done.stderr
    assert (
        "study digits-1 is complete: all 12 trials have ended; --num-trials gives it more, --retry-failed"
        in done.stdout
    )
    assert "best val_accuracy" in done.stdout
    assert not (tmp_path / "ray").exists()
    after = read_journal(storage / study.name)
    assert (after.started_at, after.ended_at, after.trials) == (before.started_at, before.ended_at, before.trials)
    assert (after.command, after.usage) == (before.command, before.usage)
    # What MLflow did not have, it has now, with the study's own times.
    assert after.parent_run_id is not None
    client = MlflowClient(after.tracking_uri)
    runs = client.search_runs([str(after.experiment_id)], f"tags.`mlflow.parentRunId` = '{after.parent_run_id}'")
    assert len(runs) == 12
    assert client.get_run(after.parent_run_id).info.end_time == int(1000 * study.seconds + 1000 * study.started_at)


def test_a_run_that_was_deleted_in_mlflow_is_written_again(samtune: Run, tmp_path: Path) -> None:
    """`tests/experiments/test_study_of_0_1_0.py` has a store that is gone, and a trial that has begun."""
    storage = tmp_path / "samtune-results"
    study = make_study(storage, space_yaml=SearchSpace.from_yaml("digits.yaml", ["num_trials=12"]).to_yaml())
    assert samtune("search", "--resume", study.name).returncode == 0
    before = read_journal(storage / study.name)
    client = MlflowClient(before.tracking_uri)
    client.delete_run(str(before.parent_run_id))
    again = samtune("search", "--resume", study.name)
    assert again.returncode == 0, again.stderr
    assert "the study's run is no longer in MLflow: writing all 12 trials again" in again.stdout
    after = read_journal(storage / study.name)
    assert after.parent_run_id != before.parent_run_id
    runs = client.search_runs([str(after.experiment_id)], f"tags.`mlflow.parentRunId` = '{after.parent_run_id}'")
    written = {int(run.data.tags["samtune.trial_number"]): run.data.metrics["val_accuracy"] for run in runs}
    assert len(runs) == 12
    assert written == {trial.number: trial.metrics["val_accuracy"] for trial in after if trial.number in written}


@pytest.mark.slow
@pytest.mark.parametrize("kept", [True, False], ids=["copied", "moved"])
def test_a_copy_has_runs_of_its_own_and_a_moved_study_keeps_its(samtune: Run, tmp_path: Path, kept: bool) -> None:
    storage, shared = tmp_path / "samtune-results", f"sqlite:///{tmp_path}/shared.db"
    study = make_study(storage, space_yaml=SearchSpace.from_yaml("digits.yaml", ["num_trials=12"]).to_yaml())
    first = samtune("search", "--resume", study.name, "--tracking-uri", shared)
    assert first.returncode == 0, first.stderr
    original = read_journal(storage / study.name).parent_run_id
    elsewhere = tmp_path / "elsewhere"
    if kept:
        shutil.copytree(storage, elsewhere)
    else:
        storage.rename(elsewhere)
    again = samtune("search", "--resume", study.name, "--storage-path", str(elsewhere))
    assert again.returncode == 0, again.stderr
    resumed = read_journal(elsewhere / study.name)
    assert (resumed.parent_run_id == original) is not kept
    client = MlflowClient(shared)
    found = client.search_runs([str(resumed.experiment_id)], max_results=1000)
    parents = [run.data.tags.get("mlflow.parentRunId") for run in found]
    assert {parent: parents.count(parent) for parent in parents if parent} == dict.fromkeys(
        {original, resumed.parent_run_id}, 12
    )


def test_a_study_can_be_ended_early_by_fewer_trials(samtune: Run, stored: Path) -> None:
    done = samtune("search", "--resume", "mine", "--num-trials", "1", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "digits: 1 trial, " in done.stdout


def test_a_journal_of_another_version_is_one_line(samtune: Run, stored: Path) -> None:
    journal = stored / FILE_NAME
    journal.write_text(journal.read_text().replace('"objectives"', '"objective"'))
    done = samtune("status", "mine")
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "journal.jsonl:1: was not written by this version of samtune (it lacks 'objectives')" in line


def test_a_study_of_before_there_were_kinds_is_a_search(samtune: Run, stored: Path) -> None:
    journal = stored / FILE_NAME
    journal.write_text(journal.read_text().replace('"kind": "search", ', ""))
    assert "mine: stopped after 0 of 16 trials" in samtune("status", "mine").stdout


def test_a_running_study_is_shown_but_not_resumed(samtune: Run, stored: Path) -> None:
    with (stored / FILE_NAME).open("a") as journal:
        fcntl.flock(journal, fcntl.LOCK_EX)
        shown = samtune("status", "mine")
        refused = samtune("search", "--resume", "mine", "--address", "127.0.0.1:1")  # no Ray is asked
    assert "mine: running: trial 0 is at epoch 1 of 12" in shown.stdout
    assert refused.returncode == 2
    assert "study mine is running already" in refused.stderr
    assert "mine: stopped after 0 of 16 trials" in samtune("status", "mine").stdout


def test_a_damaged_journal_names_the_line(samtune: Run, stored: Path) -> None:
    journal = stored / FILE_NAME
    journal.write_text("{broken\n" + journal.read_text())
    done = samtune("status", "mine")
    assert done.returncode == 2
    assert f"{FILE_NAME}:1: the journal is damaged" in done.stderr
    journal.write_bytes(b"\xff\n" + journal.read_bytes())
    done = samtune("status", "mine")
    assert done.returncode == 2
    assert f"{FILE_NAME}:1: the journal is damaged" in done.stderr


def test_a_resumed_search_takes_another_budget(samtune: Run, stored: Path) -> None:
    done = samtune(
        "search", "--resume", "mine", "--set", "budget.passes=4000", "--set", "budget.patience=7", "--dry-run"
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"budget +passes 4,000, patience 7: what is reached first ends the search", done.stdout)


def test_the_same_space_resumes_a_study_that_stored_defaults_beside_what_is_searched(tmp_path: Path) -> None:
    """Studies of before have a value at a searched key, and the defaults of one of several methods."""
    sections = {
        "data": {"name": "digits"},
        "model": {"name": "digits_cnn"},
        "method": {"name": {"choice": ["sam", "asam"]}, "m": 8},
        "training": {"lr": 0.2},
        "search": {"training.lr": {"uniform": [0.1, 0.3]}},
    }
    space = SearchSpace.from_dict({"name": "s", **sections})
    whole = space.model_dump() | {key: getattr(space, key).model_dump() for key in ("method", "training")}
    before = yaml.safe_dump(whole)
    assert (whole["method"]["rho"], whole["training"]["lr"]) == (0.05, 0.2)
    for name, text in (("before", before), ("now", space.to_yaml())):
        make_study(tmp_path, name=name, space_yaml=text)
        Tuner.resume(name, storage_path=tmp_path, space=space)
        changed = space.replace({"method.m": 4})
        with pytest.raises(UsageError, match=r"the space is not the study's: method\.m: 8 in the study, 4 now$"):
            Tuner.resume(name, storage_path=tmp_path, space=changed)
