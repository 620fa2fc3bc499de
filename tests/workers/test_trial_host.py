"""When a worker tells of its epochs: of each where somebody decides after it, else now and then, and of the last."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.midway import make_spec

from samtune.config.search import CheckpointConfig
from samtune.train.session import Place
from samtune.workers import trial_host
from samtune.workers.card_use import CardUse
from samtune.workers.protocol import Assignment, Reply, WorkerId
from samtune.workers.trial_host import LeaveQuestion, LoopConfig, TrialHost


class Run:
    """As much of a run as a host that saves nothing looks at."""

    def __init__(self) -> None:
        self.history: list[dict[str, float]] = []


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, list[int]]]:
    """(epoch, the epochs whose records came with it) of each message; the coordinator answers at once."""
    monkeypatch.setattr("ray.get", lambda answer: answer)
    return []


def make_host(folder: Path, told: list[tuple[int, list[int]]], *, num_workers: int = 1, runs_freely: bool) -> TrialHost:
    def epoch_done(worker: Any, number: int, epoch: int, records: Any, saved: bool) -> Reply:
        told.append((epoch, [int(record["epoch"]) for record in records or []]))
        return Reply.CONTINUE

    coordinator = SimpleNamespace(epoch_done=SimpleNamespace(remote=epoch_done))
    checkpoint = CheckpointConfig(min_seconds=1e6)
    loop = LoopConfig(coordinator, 0, 1, str(folder / "checkpoints"), checkpoint, None)
    assignment = Assignment(1, "a", "a", make_spec("training.epochs=6"), 1, runs_freely)
    worker = WorkerId(0, 0, "g")
    place = Place(0, num_workers, torch.device("cpu"))
    return TrialHost(assignment, loop, worker, place, LeaveQuestion(coordinator, worker))


def end_epochs(host: TrialHost, last: int = 6) -> None:
    run = Run()
    for epoch in range(1, last + 1):
        run.history.append({"epoch": float(epoch)})
        assert host.epoch_ends(run, epoch)  # type: ignore[arg-type]


def test_alone_and_free_it_tells_of_a_short_trial_once(tmp_path: Path, told: Any) -> None:
    end_epochs(make_host(tmp_path, told, runs_freely=True))
    assert told == [(6, [1, 2, 3, 4, 5, 6])]


def test_a_trial_that_fails_tells_of_the_epochs_before(tmp_path: Path, told: Any) -> None:
    host = make_host(tmp_path, told, runs_freely=True)
    with suppress(ZeroDivisionError), host:
        end_epochs(host, last=4)
        raise ZeroDivisionError
    assert told == [(4, [1, 2, 3, 4])]


def test_a_trial_that_ends_tells_of_no_epoch_twice(tmp_path: Path, told: Any) -> None:
    with make_host(tmp_path, told, runs_freely=True) as host:
        end_epochs(host)
    assert told == [(6, [1, 2, 3, 4, 5, 6])]


def test_a_long_epoch_does_not_hold_back_those_before(
    tmp_path: Path, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, run = make_host(tmp_path, told, runs_freely=True), Run()
    monkeypatch.setattr(LeaveQuestion, "answer", lambda question: False)
    for epoch in (1, 2, 3):
        run.history.append({"epoch": float(epoch)})
        host.epoch_ends(run, epoch)  # type: ignore[arg-type]
    host.after_step(run)  # type: ignore[arg-type]
    assert told == []
    monkeypatch.setattr(trial_host, "TELL_SECONDS", 0.0)
    host.after_step(run)  # type: ignore[arg-type]
    host.after_step(run)  # type: ignore[arg-type]
    assert told == [(3, [1, 2, 3])]
    run.history.append({"epoch": 4.0})
    host.epoch_ends(run, 4)  # type: ignore[arg-type]
    assert told[1:] == [(4, [4])]


def test_each_epoch_says_how_its_card_was_used(tmp_path: Path, told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a card: this machine has none."""
    sent: list[dict[str, float]] = []
    host = make_host(tmp_path, told, runs_freely=True)
    busy = iter(range(1, 100))
    host._card = CardUse(lambda: 2**30, lambda: 10.0 * next(busy))
    monkeypatch.setattr(host, "_told", lambda epoch, records, saved: sent.extend(records or []) or Reply.CONTINUE)
    run = Run()
    for epoch in range(1, 7):
        host._card.look()
        run.history.append({"epoch": float(epoch)})
        host.epoch_ends(run, epoch)  # type: ignore[arg-type]
    assert sent == [{"gpu_memory": 1.0, "gpu_utilization": 10.0 * epoch, "epoch": epoch} for epoch in range(1, 7)]
    assert run.history[0] == {"epoch": 1.0}  # which is the same on all ranks, and after every resume


def test_long_epochs_are_told_of_one_by_one(tmp_path: Path, told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_host, "TELL_SECONDS", 0.0)
    end_epochs(make_host(tmp_path, told, runs_freely=True))
    assert told == [(epoch, [epoch]) for epoch in range(1, 7)]


@pytest.mark.parametrize(("num_workers", "runs_freely"), [(1, False), (2, True)])
def test_a_scheduler_and_other_ranks_hear_of_every_epoch(
    tmp_path: Path, told: Any, num_workers: int, runs_freely: bool
) -> None:
    end_epochs(make_host(tmp_path, told, num_workers=num_workers, runs_freely=runs_freely))
    assert told == [(epoch, [epoch]) for epoch in range(1, 7)]


def test_the_question_whether_to_leave_is_asked_once_until_it_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[WorkerId] = []
    answers = [False, True]
    coordinator = SimpleNamespace(must_leave=SimpleNamespace(remote=lambda worker: asked.append(worker) or "asked"))
    is_answered = False
    monkeypatch.setattr("ray.wait", lambda questions, timeout: (questions if is_answered else [], []))
    monkeypatch.setattr("ray.get", lambda question: answers.pop(0))
    question = LeaveQuestion(coordinator, WorkerId(0, 0, "g"))
    assert not any(question.answer() for _ in range(5))
    assert len(asked) == 1
    is_answered = True
    assert not question.answer()  # the answer: it stays
    assert not question.answer()  # asks again
    assert len(asked) == 2
    assert question.answer()
