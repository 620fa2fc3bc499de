"""The time left of a confirmation, against simulated ones whose end is known."""

from __future__ import annotations

import heapq
from pathlib import Path

import pytest
from helpers.studies import make_confirmation

import samtune.study
import samtune.terminal.tally
from samtune.study import EpochRecord, Trial, TrialState
from samtune.terminal.candidate_time import CandidateTimes
from samtune.terminal.tally import Tally

PASSES = {"sam": 20.0, "sgd": 10.0, "sgd long": 20.0}
EPOCHS = {"sam": (10, 2.0), "sgd": (10, 1.5), "sgd long": (20, 1.5)}
"""How many, and what one takes: an epoch of SGD does not take half of one of SAM."""


def begin(number: int, label: str, now: float) -> Trial:
    config = {"candidate": label, "replica": number // len(EPOCHS)}
    return Trial(number, f"t{number}", config, {}, EPOCHS[label][0], TrialState.RUNNING, started_at=now)


def train(trial: Trial, now: float) -> None:
    """An epoch ends, and with the last of them the trial."""
    trial.history.append(EpochRecord({"epoch": len(trial.history) + 1.0}, 0, now))
    if len(trial.history) == trial.num_epochs:
        trial.state, trial.ended_at = TrialState.COMPLETED, now


def simulate(num_groups: int, replicas: int) -> tuple[dict[float, float | None], float]:
    """The estimate after each epoch of a confirmation, and when it ended."""
    times = CandidateTimes(PASSES, replicas)
    queue = [label for _ in range(replicas) for label in EPOCHS]
    trials: list[Trial] = []
    seen: dict[float, float | None] = {}
    events: list[tuple[float, int]] = []
    now = 100.0

    def take() -> None:
        if len(trials) < len(queue):
            trials.append(begin(len(trials), queue[len(trials)], now))
            heapq.heappush(events, (now + EPOCHS[queue[len(trials) - 1]][1], len(trials) - 1))

    for _ in range(num_groups):
        take()
    while events:
        now, index = heapq.heappop(events)
        train(trials[index], now)
        if trials[index].state is TrialState.COMPLETED:
            take()
        else:
            heapq.heappush(events, (now + EPOCHS[queue[index]][1], index))
        seen[now] = times.seconds_left(trials, num_groups, now)
    return seen, now


@pytest.mark.parametrize(("num_groups", "known_at"), [(1, 100.0 + 20.0 + 15.0 + 3.0), (2, 100.0 + 15.0 + 3.0)])
def test_it_is_exact_once_every_candidate_has_two_epochs(num_groups: int, known_at: float) -> None:
    seen, end = simulate(num_groups, replicas=3)
    # Two groups: sam 0-20, sgd 0-15, long 15-45, sam 20-40, sgd 40-55, long 45-75, sam 55-75, sgd 75-90, long 75-105.
    assert end - 100.0 == {1: 3 * (20.0 + 15.0 + 30.0), 2: 75.0 + 30.0}[num_groups]
    assert {at: left for at, left in seen.items() if at >= known_at} == {
        at: pytest.approx(end - at) for at in seen if at >= known_at
    }


def test_a_candidate_that_has_no_trial_yet_costs_its_passes_at_the_pace_of_the_others() -> None:
    seen, _ = simulate(1, replicas=3)
    assert seen[102.0] is None  # one epoch, and when it began is not known
    assert seen[104.0] == pytest.approx(3 * (20.0 + 10.0 + 20.0) - 4.0)  # a second for a pass


def test_an_epoch_under_way_runs_it_down_by_no_more_than_it_should_take() -> None:
    trial = begin(0, "sam", 100.0)
    for now in (102.0, 104.0):
        train(trial, now)
    times = CandidateTimes({"sam": 20.0}, 1)
    left = [times.seconds_left([trial], 1, now) for now in (104.0, 105.0, 106.0, 150.0)]
    assert left == [16.0, 15.0, 14.0, 14.0]


def test_the_pause_of_an_interrupted_study_is_no_training() -> None:
    trial = begin(0, "sam", 100.0)
    for now in (102.0, 104.0, 106.0, 9000.0, 9002.0):
        train(trial, now)
    trial.started_at = 8998.0  # it was resumed
    assert CandidateTimes({"sam": 20.0}, 1).seconds_left([trial], 1, 9002.0) == 10.0
    for now in (9004.0, 9006.0, 9008.0, 9010.0, 9012.0):
        train(trial, now)
    assert trial.state is TrialState.COMPLETED
    assert CandidateTimes({"sam": 20.0}, 3).seconds_left([trial], 1, 9012.0) == 40.0


def test_interrupted_trials_come_again_with_what_they_lack_and_failed_ones_do_not() -> None:
    done, interrupted, failed = (begin(number, "sgd", 100.0) for number in range(3))
    for _ in range(10):
        train(done, 100.0 + 1.5 * (len(done.history) + 1))
    for _ in range(4):
        train(interrupted, 100.0 + 1.5 * (len(interrupted.history) + 1))
    interrupted.state, failed.state = TrialState.INTERRUPTED, TrialState.FAILED
    left = CandidateTimes({"sgd": 10.0}, 4).seconds_left([done, interrupted, failed], 1, 200.0)
    assert left == 6 * 1.5 + 15.0  # its six epochs, and the fourth replica


def test_a_display_of_a_confirmation_shows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 100.0
    monkeypatch.setattr(samtune.terminal.tally.time, "time", lambda: clock)
    monkeypatch.setattr(samtune.study.time, "time", lambda: clock)
    study = make_confirmation(tmp_path, {"sam": [], "sgd": []}, replicas=2)
    study.trials.clear()
    tally = Tally(study)
    running = [begin(0, "sam", clock), begin(1, "sgd", clock)]
    for trial in running:
        study.trials.append(trial)
        tally.start(trial)
    assert tally.seconds_left is None
    for clock in (102.0, 104.0):
        for trial in running:
            train(trial, clock)
            tally.epoch()
    assert tally.seconds_left == 16.0 + 20.0  # two groups: a trial of each candidate under way and one to come
