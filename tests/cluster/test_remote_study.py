"""The folder of a study in remote storage, on a real S3 server."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from samtune.errors import UsageError
from samtune.storage import join, read_bytes, write_bytes
from samtune.store import lease, uploader
from samtune.store.journal import FILE_NAME as JOURNAL
from samtune.store.optuna_journal import FILE_NAME as OPTUNA
from samtune.store.remote_folder import RemoteStudyFolder
from samtune.store.study_folder import absolute_storage, study_folder
from samtune.store.uploader import Mirror
from samtune.study import Objective, Study, Trial, TrialState


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(uploader, "MIN_PAUSE", 0.05)
    monkeypatch.setattr(uploader, "REST", 0.0)
    monkeypatch.setattr(uploader, "RETRY_SECONDS", 0.1)


class Driver:
    """What a search does with its folder, without the search."""

    def __init__(self, uri: str, monkeypatch: pytest.MonkeyPatch | None = None, cache: Path | None = None) -> None:
        if monkeypatch is not None:
            monkeypatch.setenv("SAMTUNE_CACHE", str(cache))
        self.said: list[str] = []
        self.stopped: list[str] = []
        folder = study_folder(uri, "study")
        assert isinstance(folder, RemoteStudyFolder)
        self.folder = folder
        self.callbacks = self.folder.open(self.said.append, self.stopped.append)
        self.study = Study(
            name="study",
            objectives=(Objective(),),
            num_trials=9,
            space_yaml="name: x",
            plan={},
            storage_path=self.folder.uri,
            tracking_uri="sqlite:////x.db",
            experiment="x",
            command="samtune search",
            versions={},
        )
        self.tell("on_study_start")

    def tell(self, event: str, *details: object) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(self.study, *details)

    def run_trial(self, number: int) -> None:
        trial = Trial(number=number, id=f"t{number}", config={}, params={}, num_epochs=1, started_at=1.0)
        with (self.folder.local / OPTUNA).open("a") as file:
            file.write(f"trial {number}\n")
        self.tell("on_trial_start", trial)
        trial.history.append({"epoch": 1, "val_accuracy": 0.5})
        self.tell("on_epoch", trial, trial.metrics)
        trial.state = TrialState.COMPLETED
        self.tell("on_trial_end", trial)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 400
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def trials_at(uri: str) -> list[int]:
    return [trial.number for trial in study_folder(uri, "study").read() if trial.state is TrialState.COMPLETED]


def test_every_event_is_sent_while_the_search_runs_and_read_from_another_machine(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(s3)
    driver.run_trial(0)
    monkeypatch.setenv("SAMTUNE_CACHE", str(tmp_path / "another machine"))
    wait_for(lambda: study_folder(s3, "study").exists() and trials_at(s3) == [0])
    assert study_folder(s3, "study").is_running()
    driver.tell("on_study_end")
    assert not study_folder(s3, "study").is_running()
    assert driver.said == []


def test_a_study_goes_on_on_another_machine_with_one_moment_of_both_journals(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Driver(s3)
    first.run_trial(0)
    first.tell("on_study_end")
    # Optuna's was sent, and the driver died before it sent the journal that goes with it.
    optuna = join(first.folder.uri, OPTUNA)
    write_bytes(optuna, (read_bytes(optuna) or b"") + b"trial 1\n")
    second = Driver(s3, monkeypatch, tmp_path / "another machine")
    assert (second.folder.local / OPTUNA).read_text() == "trial 0\n"
    second.run_trial(1)
    second.tell("on_study_end")
    assert trials_at(s3) == [0, 1]
    assert (second.folder.local / JOURNAL).read_text().count("mirrored") == 0


def test_what_could_not_be_sent_is_said_and_read_from_the_copy_on_this_machine(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(s3)
    driver.run_trial(0)
    wait_for(lambda: read_bytes(join(driver.folder.uri, JOURNAL)) is not None)
    sender = driver.callbacks[1]
    assert isinstance(sender, Mirror)

    def fail() -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(sender, "_send", fail)
    monkeypatch.setattr(sender, "_patience", 0.5)
    driver.run_trial(1)
    wait_for(lambda: bool(driver.said))
    driver.tell("on_study_end")
    assert "cannot be sent to s3://" in driver.said[0]
    assert "no route to host" in driver.said[0]
    assert "last events of the study could not be sent" in driver.said[-1]
    assert "samtune search --resume study" in driver.said[-1]
    again = Driver(s3)  # its own lease is no obstacle
    assert trials_at(s3) == [0, 1]
    again.run_trial(2)
    again.tell("on_study_end")
    journal = (read_bytes(join(again.folder.uri, JOURNAL)) or b"").decode().splitlines()
    assert [json.loads(line)["id"] for line in journal if '"end"' in line] == ["t0", "t1", "t2"]


def test_a_copy_that_another_machine_has_overtaken_is_given_up_and_says_so(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Driver(s3)
    first.run_trial(0)
    first.tell("on_study_end")
    with (first.folder.local / JOURNAL).open("a") as file:
        file.write('{"event": "unsent", "time": 1}\n')
    second = Driver(s3, monkeypatch, tmp_path / "another machine")
    second.run_trial(1)
    second.tell("on_study_end")
    third = Driver(s3, monkeypatch, tmp_path / "cache")
    assert third.said == [
        "warning: another machine went on with this study; events that only this one had are left out"
    ]
    assert trials_at(s3) == [0, 1]
    third.tell("on_study_end")


def test_two_drivers_are_refused_here_and_there(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = r"study study is running already: .*lock is locked"
    there = r"s3://.*running already: \S+ \(process \d+\) has it, last seen \d+ s ago"
    driver = Driver(s3)
    with pytest.raises(UsageError, match=here):
        driver.folder.check_free()
    with pytest.raises(UsageError, match=here):
        Driver(s3)
    with pytest.raises(UsageError, match=there):
        Driver(s3, monkeypatch, tmp_path / "another machine")
    with pytest.raises(UsageError, match=there):
        study_folder(s3, "study").check_free()
    driver.tell("on_study_end")
    study_folder(s3, "study").check_free()  # and takes nothing
    Driver(s3).tell("on_study_end")


@pytest.mark.parametrize("has_ended", [False, True])
def test_a_stale_lease_is_taken_over_and_the_old_driver_stops(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_ended: bool
) -> None:
    first = Driver(s3)
    first.run_trial(0)
    wait_for(lambda: b'"end"' in (read_bytes(join(first.folder.uri, JOURNAL)) or b""))
    monkeypatch.setattr(lease, "STALE_SECONDS", 0.0)
    second = Driver(s3, monkeypatch, tmp_path / "another machine")
    second.run_trial(1)
    if has_ended:
        second.tell("on_study_end")
    monkeypatch.setattr(uploader, "RENEW_SECONDS", 0.0)
    first.run_trial(7)
    wait_for(lambda: bool(first.stopped))
    assert "has taken the study over" in first.stopped[0]
    first.tell("on_study_end")
    if not has_ended:
        second.tell("on_study_end")
    assert trials_at(s3) == [0, 1]


def test_a_study_that_is_not_there_is_said_with_the_nearest(s3: str) -> None:
    driver = Driver(s3)
    driver.tell("on_study_end")
    with pytest.raises(UsageError, match=r"no study of that name: s3://\S+journal\.jsonl\S* does not exist.*'study'"):
        study_folder(s3, "studdy").read()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s4://bucket/x", r"storage_path s4://bucket/x: cannot be used: Unrecognized filesystem type"),
        ("s3://key:secret@bucket/x", r"storage_path: must not hold credentials"),
    ],
)
def test_a_uri_that_cannot_work_is_refused(uri: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        absolute_storage(uri)
    assert "secret" not in str(caught.value)


def test_a_bucket_that_is_not_there_is_refused_before_anything_starts(s3: str) -> None:
    with pytest.raises(UsageError, match=r"storage_path s3://nowhere\S+: cannot be used: Bucket 'nowhere' not found"):
        Driver(s3.replace("studies", "nowhere"))
