"""`samtune logs`: what a trial's own code printed, and why it failed."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import Result
from helpers.studies import make_study
from typer.testing import CliRunner

from samtune import UsageError
from samtune.cli.app import app
from samtune.study import Study
from samtune.workers.trial_output import TrialOutput, output_file


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """`digits-1`, whose trial 9 failed; 0 printed on two workers, and so did 9."""
    monkeypatch.chdir(tmp_path)
    study = make_study(tmp_path / "samtune-results")
    for number, rank, text in [
        (0, 0, "loss 0.5\nepoch 1: 10%\repoch 1: 55%\repoch 1: done\r\n\x1b[2Jcolours \u202e\n"),
        (0, 1, "on the second\n"),
        (9, 0, "about to fail\n"),
    ]:
        with TrialOutput(output_file(study.storage_path, study.trials[number].id, rank)) as output:
            output.hear(text)
    return study


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["logs", *arguments])


def test_a_trial_s_output_is_shown_as_a_terminal_would_end_up(study: Study) -> None:
    done = run("digits-1", "0")
    assert (done.exit_code, done.stdout) == (0, "loss 0.5\nepoch 1: done\n\\x1b[2Jcolours \\u202e\n")
    assert run("digits-1", "0", "--worker", "1").stdout == "on the second\n"


def test_a_failed_trial_says_why(study: Study) -> None:
    failed = study.trials[9]
    assert failed.error
    done = run("digits-1", "9")
    assert done.stdout.startswith("about to fail\ntrial 9 failed: ")
    assert failed.error in done.stdout


def test_without_a_number_the_trials_that_printed_are_listed(study: Study) -> None:
    done = run("digits-1")
    assert done.exit_code == 0
    first, second = done.stdout.splitlines()
    assert first == "trial 0 (completed): 80 bytes on 2 workers"
    assert second.startswith("trial 9 (failed): 14 bytes: ")
    assert "`samtune logs digits-1 0` shows one" in done.stderr


def test_silence_is_said(study: Study, tmp_path: Path) -> None:
    done = run("digits-1", "1")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "trial 1 (completed) has printed nothing" in done.stderr
    make_study(tmp_path / "samtune-results", name="quiet")
    assert "no trial of quiet has printed anything" in run("quiet").stderr


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["digits-1", "99"], "study digits-1 has no trial 99, the last is 11"),
        (["digits-1", "0", "--worker", "7"], "--worker 7: trial 0 printed on worker 0, 1 alone"),
        (["nowhere"], "nowhere"),
    ],
)
def test_what_is_not_there_is_one_line(study: Study, arguments: list[str], problem: str) -> None:
    error = run(*arguments).exception
    assert isinstance(error, UsageError)
    assert problem in str(error)
    assert "\n" not in str(error)


def test_a_link_in_a_stranger_s_study_is_not_followed(study: Study, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("key\n")
    link = Path(output_file(study.storage_path, study.trials[1].id, 0))
    link.symlink_to(secret)
    done = run("digits-1", "1")
    assert isinstance(done.exception, UsageError)
    assert "is a symbolic link" in str(done.exception)
    assert "key" not in done.stdout
    link.unlink()
    folder = link.parent
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    assert "is a symbolic link" in str(run("digits-1", "0").exception)
