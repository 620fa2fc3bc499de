"""Studies as things: list, best and rm, and built-in spaces that are copied."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from helpers.studies import make_study
from typer.testing import CliRunner

from samtune import SearchSpace, UsageError
from samtune.cli.app import app
from samtune.config.builtin_spaces import builtin_spaces
from samtune.experiments.best import best_yaml
from samtune.experiments.catalog import list_studies
from samtune.experiments.results import Results
from samtune.store.journal import FILE_NAME, Journal
from samtune.store.study_folder import stored_space

SPACE = {
    "name": "digits",
    "data": {"name": "digits"},
    "model": {"name": "digits_cnn"},
    "method": {"choice": ["sgd", {"name": "sam", "rho": {"log_uniform": [0.01, 0.5]}}]},
    "training": {"epochs": 4, "lr": {"log_uniform": [0.01, 0.5]}},
    "initial": [{"method.name": "sgd"}],
    "num_trials": 12,
}


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a complete search over two methods, `digits-1`."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "samtune-results"
    make_study(folder, methods=("sam", "sgd"), space_yaml=SearchSpace.from_dict(SPACE).to_yaml())
    return folder


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_the_best_configuration_is_a_space_of_the_same_trial(storage: Path) -> None:
    study = Results.load("digits-1", storage).study
    assert study.best is not None
    done = run("best", "digits-1", "-o", "best.yaml")
    assert done.exit_code == 0, done.output
    space = SearchSpace.from_yaml("best.yaml")
    assert space.distributions() == []
    assert (space.num_trials, space.name) == (1, f"digits-1-trial-{study.best.number}")
    expected = stored_space(study, "space.yaml").trial(study.best.config)
    assert space.trial({}) == expected
    text = Path("best.yaml").read_text()
    assert text.startswith(f"# Trial {study.best.number} of study digits-1: val_accuracy 0.")
    assert run("best", "digits-1").stdout == text
    for command in (("search", "best.yaml", "--dry-run"), ("validate", "best.yaml")):
        assert run(*command).exit_code == 0
    again = run("best", "digits-1", "-o", "best.yaml")
    assert isinstance(again.exception, UsageError)
    assert "best.yaml: is there already" in str(again.exception)


def test_another_trial_than_the_best_and_none(storage: Path) -> None:
    study = Results.load("digits-1", storage).study
    for trial in study:
        space = SearchSpace.from_text(best_yaml("digits-1", storage, trial=trial.number), "best.yaml")
        assert space.trial({}) == stored_space(study, "space.yaml").trial(trial.config)
    with pytest.raises(UsageError, match="study digits-1 has no such trial"):
        best_yaml("digits-1", storage, trial=99)


def test_the_list_has_every_study_and_what_cannot_be_read(storage: Path) -> None:
    make_study(storage, name="later", num_trials=3)
    (storage / "broken").mkdir()
    (storage / "broken" / FILE_NAME).write_text("{}\n")
    (storage / "no-study").mkdir()
    entries = {entry.name: entry for entry in list_studies(storage)}
    assert set(entries) == {"digits-1", "later", "broken"}
    first = entries["digits-1"]
    assert (first.state, first.kind, first.num_ended, first.num_trials) == ("complete", "search", 12, 12)
    results = Results.load("digits-1", storage)
    assert first.best == results.study.objective.value(results.best)
    assert first.num_bytes == sum(file.stat().st_size for file in (storage / "digits-1").rglob("*"))
    assert "journal.jsonl:1: " in str(entries["broken"].problem)
    shown = run("list").stdout
    assert "later" in shown
    assert "broken: cannot be read: " in shown
    assert {entry["name"] for entry in json.loads(run("list", "--json").stdout)} == set(entries)


def test_the_size_is_of_the_study_s_own_files(storage: Path) -> None:
    (before,) = list_studies(storage)
    (storage.parent / "other").write_bytes(bytes(10_000_000))
    (storage / "digits-1" / "link").symlink_to(storage.parent / "other")
    (storage / "digits-1" / "outside").symlink_to(storage.parent)
    (storage / "digits-1" / "loop").symlink_to(".")
    (after,) = list_studies(storage)
    assert after.num_bytes == before.num_bytes


def test_a_study_that_runs_is_running_and_stays(storage: Path) -> None:
    journal = Journal(storage / "digits-1")
    try:
        assert list_studies(storage)[0].state == "running"
        refused = run("rm", "digits-1", "--yes")
        assert str(refused.exception) == "study digits-1 is running: stop it first"
    finally:
        journal.close()
    assert list_studies(storage)[0].state == "complete"


def test_a_study_is_removed_after_a_question(storage: Path) -> None:
    make_study(storage, name="digits-1-confirm", num_trials=1)
    refused = run("rm", "digits-1")
    assert "--yes is required" in str(refused.exception)
    assert (storage / "digits-1" / FILE_NAME).exists()
    wrong = run("rm", "digits-1", "digits-2", "--yes")
    assert "no study of that name" in str(wrong.exception)
    assert (storage / "digits-1" / FILE_NAME).exists()  # all are looked at before one is deleted
    done = run("rm", "digits-1", "--yes")
    assert done.exit_code == 0, done.output
    assert "its confirmation digits-1-confirm stays" in done.output
    assert done.stdout.splitlines()[-1].startswith("deleted digits-1; freed ")
    assert not (storage / "digits-1").exists()
    assert [entry.name for entry in list_studies(storage)] == ["digits-1-confirm"]


def test_a_built_in_space_is_printed_and_copied(storage: Path) -> None:
    text = builtin_spaces()["digits.yaml"].read_text(encoding="utf-8")
    assert run("spaces", "digits.yaml").stdout == text
    assert run("spaces", "digits", "-o", "mine.yaml").exit_code == 0
    assert Path("mine.yaml").read_text(encoding="utf-8") == text
    assert "did you mean 'digits'" in str(run("spaces", "digit").exception)
    table4 = run("spaces", "table4_label_noise_sam")
    assert table4.stdout == builtin_spaces()["sam/table4_label_noise_sam.yaml"].read_text(encoding="utf-8")
    assert "which space?" in str(run("spaces", "-o", "x.yaml").exception)
