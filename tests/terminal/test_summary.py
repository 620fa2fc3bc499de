from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path

import pytest
from helpers.searches import Search
from rich.console import Console

import samtune.terminal.tally
from samtune.experiments.json_summary import json_summary
from samtune.experiments.summary import study_state
from samtune.store.study_files import error_file
from samtune.study import Objective, Trial, TrialState
from samtune.terminal import format_state, leaderboard, make_console, print_plan, print_summary
from samtune.terminal.confirmed import print_loading
from samtune.terminal.tally import Tally
from samtune.tune.ending import HOPELESS


def printed(search: Search, width: int = 80, *, debug: bool = False) -> str:
    output = io.StringIO()
    print_summary(Console(file=output, width=width, markup=False, highlight=False), search.study, debug=debug)
    return output.getvalue()


def cells(search: Search, limit: int = 10, width: int | None = None) -> list[list[str]]:
    """The leaderboard as text: its header, then its rows."""
    table = leaderboard(search.study, limit, width=width)
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    return [[str(column.header) for column in table.columns], *map(list, zip(*columns, strict=True))]


def test_the_leaderboard_ranks_completed_trials_before_those_stopped_early(search: Search) -> None:
    search.run(0.8)
    search.run(0.99, TrialState.PRUNED)
    search.run(0.9778, rho=0.1)
    search.run(0.95, TrialState.FAILED, "boom")
    rows = cells(search)
    assert rows[0] == ["#", "trial", "val_accuracy", "rho", "lr", "passes", "time", "state"]
    assert rows[1] == ["1", "2", "0.9778", "0.1", "1.2e-03", "2", "0.0s", "completed"]
    assert [row[1] for row in rows[1:]] == ["2", "0", "1"]  # a failed trial has no rank


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("digits_cnn", ["model = load_model(WEIGHTS)"]),
        ("timm:test_vit", ["model = load_model(WEIGHTS)"]),
        ("my_nets:make", ["from my_nets import make", "model = load_model(WEIGHTS, model=make)"]),
    ],
)
def test_the_kept_weights_are_loaded_by_what_built_their_network(
    search: Search, name: str, expected: list[str]
) -> None:
    search.start(**{"model.name": name})
    output = io.StringIO()
    print_loading(Console(file=output, width=80, markup=False, highlight=False), search.study)
    lines = re.sub(r'".*?"', "WEIGHTS", output.getvalue()).splitlines()
    assert [line.strip() for line in lines[1:-1]] == expected


def test_the_leaderboard_has_the_standard_error_over_folds(search: Search) -> None:
    for accuracy in (0.9, 0.8):
        search.epoch(trial := search.start(), accuracy)
        if accuracy == 0.9:
            trial.history.append({**trial.history[-1], "epoch": 2.0, "val_accuracy_se": 0.0123})
        search.end(trial)
    rows = cells(search)
    assert [row[2:4] for row in rows] == [["val_accuracy", "± se"], ["0.9000", "0.0123"], ["0.8000", "-"]]
    search.study.objectives = (Objective(epochs="best"),)  # what the last epoch has is not of the best one
    assert "± se" not in cells(search)[0]


def test_the_leaderboard_has_a_limit(search: Search) -> None:
    for number in range(4):
        search.run(number / 10)
    assert [row[1] for row in cells(search, limit=2)[1:]] == ["3", "2"]


def test_keys_that_not_every_trial_has_are_dashes(search: Search) -> None:
    search.epoch(first := search.start(), 0.9)
    search.end(first)
    search.epoch(second := search.start(0.1, **{"method.m": "global"}), 0.8)
    search.end(second)
    rows = cells(search)
    assert rows[0][3:6] == ["rho", "lr", "m"]
    assert [row[5] for row in rows[1:]] == ["-", "global"]


@pytest.mark.parametrize("width", [60, 80])
def test_a_narrow_leaderboard_loses_no_value(search: Search, width: int) -> None:
    more = {f"training.some_long_key_{index}": float(index) for index in range(1, 8)}
    trial = search.start(0.0512, **more)
    search.epoch(trial, 0.9)
    search.end(trial)
    text = printed(search, width)
    for index in range(1, 8):
        assert re.search(rf"some_long_key_{index}=\s*{index}\b", text)
    table = text[: text.index("best val_accuracy")]
    assert max(len(line) for line in table.splitlines() if not line.startswith("digits-1")) <= width


def test_where_a_column_is_too_narrow_the_keys_are_below_their_row(search: Search) -> None:
    search.run(0.8)
    search.epoch(trial := search.start(0.0512, **{"training.weight_decay": 0.0005}), 0.9778)
    search.end(trial)
    lines = [line.rstrip() for line in printed(search, 44).splitlines()]
    first = lines.index("  1      1        0.9778  completed")
    assert lines[first + 1 : first + 4] == [
        "      rho=0.0512 lr=1.2e-03",
        "      weight_decay=5e-04",
        "  2      0        0.8000  completed",
    ]


@pytest.mark.parametrize(("columns", "width"), [("0", 80), ("00", 80), ("40", 40), ("132", 132)])
def test_no_columns_are_eighty(monkeypatch: pytest.MonkeyPatch, columns: str, width: int) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert make_console().width == width


def test_the_summary_has_what_comes_next(search: Search) -> None:
    search.run(0.8)
    search.run(0.9778, rho=0.0512345678901)
    search.run(0.1, TrialState.FAILED, "OutOfMemoryError: CUDA [GPU 0]\nmore")
    search.run(0.1, TrialState.FAILED, "OutOfMemoryError: CUDA [GPU 0]\nmore")
    lines = printed(search).splitlines()
    assert lines[1].startswith("digits-1: 2 completed, 2 failed of 4 trials in ")
    assert "trials 2, 3 failed: OutOfMemoryError: CUDA [GPU 0]" in lines
    assert "best val_accuracy 0.9778 (trial 1)" in lines
    assert "  --set method.rho=0.0512345678901 --set training.lr=0.0012" in lines
    assert f"kept in {search.study.storage_path}" in lines
    command = next(line for line in lines if "mlflow ui" in line)  # whole, however narrow the terminal
    assert command.endswith(f"ui --backend-store-uri {search.study.tracking_uri} --port 5000")
    assert not any("http" in line for line in lines)  # `samtune ui` and MLflow's own command say the address
    assert any(line.startswith("  samtune confirm digits-1 --storage-path ") for line in lines)
    assert "more" not in lines


def test_an_error_says_where_its_traceback_is_and_debug_shows_it(search: Search) -> None:
    search.run(0.8)
    for _ in range(2):
        search.run(0.1, TrialState.FAILED, "my_loss.py:5 in focal: ValueError: no").traceback = "Traceback …\n  no\n"
    line = "trials 1, 2 failed: my_loss.py:5 in focal: ValueError: no"
    assert line in printed(search).splitlines()
    assert "traceback of" not in printed(search)  # not where an earlier version has written none
    file = Path(error_file(search.study.storage_path, 1))
    file.parent.mkdir()
    file.write_text("Traceback …")
    assert f"  traceback of trial 1: {file}" in printed(search).splitlines()
    assert "Traceback …" not in printed(search)
    assert printed(search, debug=True).count("Traceback …\n  no\n") == 1  # the same error is shown once


@pytest.mark.parametrize(
    ("states", "stopped_by", "expected"),
    [
        ([TrialState.FAILED] * 4, None, "failed"),
        ([TrialState.FAILED] * 3, HOPELESS, "failed"),
        ([TrialState.FAILED] * 3, None, "stopped"),  # the driver died
        ([TrialState.FAILED] * 3, "interrupted", "stopped"),
        ([TrialState.FAILED] * 3 + [TrialState.PRUNED], None, "complete"),
        ([TrialState.COMPLETED] * 3, None, "stopped"),
        ([], None, "stopped"),
    ],
)
def test_the_state_of_a_study(search: Search, states: list[TrialState], stopped_by: str | None, expected: str) -> None:
    for state in states:
        search.run(0.5, state)
    search.study.stopped_by = stopped_by
    assert study_state(search.study) == expected
    assert format_state(search.study, running=False).startswith(expected)
    assert study_state(search.study, running=True) == json_summary(search.study, running=True)["state"] == "running"


RESUME, RETRY = "samtune search --resume digits-1", "--retry-failed"


@pytest.mark.parametrize(
    ("states", "stopped_by", "resumes", "retries"),
    [
        ([TrialState.COMPLETED] * 4, None, False, False),
        ([TrialState.COMPLETED, TrialState.INTERRUPTED], "interrupted", True, False),
        ([TrialState.COMPLETED], "interrupted", True, False),  # between two trials: none was cut
        ([], "interrupted", True, False),  # before the first
        ([TrialState.COMPLETED], "budget.seconds: 0:10 are over", False, False),
        ([TrialState.COMPLETED], "grid: all 1 points are tried", False, False),
        ([TrialState.FAILED] * 3, HOPELESS, True, True),
    ],
)
def test_what_continues_a_study_is_the_first_command(
    search: Search, states: list[TrialState], stopped_by: str | None, resumes: bool, retries: bool
) -> None:
    for state in states:
        search.run(0.5, state)
    search.study.stopped_by = stopped_by
    lines = printed(search).splitlines()
    after = next((lines[lines.index(line) + 1] for line in lines if line == "what next:"), "")
    assert (after.startswith(f"  {RESUME}"), RETRY in after) == (resumes, retries)
    assert ("samtune confirm" in printed(search)) == (TrialState.COMPLETED in states)


def test_many_different_errors_are_cut(search: Search) -> None:
    for number in range(9):
        search.run(0.1, TrialState.FAILED, f"error {number}")
    text = printed(search)
    assert "trial 4 failed: error 4" in text
    assert "error 5" not in text
    assert "and 4 other errors" in text


def test_without_a_completed_trial_it_says_so(search: Search) -> None:
    text = printed(search)
    assert "none ended of 4 trials" in text
    assert "no trial was completed" in text
    assert "--set" not in text


def test_json_has_exactly_the_promised_keys(search: Search) -> None:
    search.run(0.8)
    search.run(0.9778, rho=0.1)
    search.run(0.5, TrialState.PRUNED)
    search.run(0.5, TrialState.FAILED, "boom")
    search.study.ended_at = search.study.started_at + 12.5
    result = json.loads(json.dumps(json_summary(search.study), allow_nan=False))
    verdict = result.pop("verdict")
    assert (verdict["trial"], verdict["value"], verdict["confirmation"]) == (1, 0.9778, None)
    assert verdict["lines"] == [
        "0.9778 has no standard error: the number of examples is not known beforehand",
        f"the best of 2 is partly luck; run `{verdict['command']}` to decide",
    ]
    assert result == {
        "study": "digits-1",
        "state": "complete",
        "num_trials": 4,
        "num_completed": 2,
        "num_pruned": 1,
        "num_failed": 1,
        "best": {
            "trial": 1,
            "config": {"method.rho": 0.1, "training.lr": 0.0012},
            "metrics": {"epoch": 1.0, "val_accuracy": 0.9778, "num_passes": 2.0},
        },
        "stopped_by": None,
        "seconds": 12.5,
        "tracking_uri": search.study.tracking_uri,
        "experiment_id": "1",
        "parent_run_id": "f" * 32,
        "storage_path": search.study.storage_path,
    }


def test_json_is_strict_whatever_the_metrics(search: Search) -> None:
    assert json_summary(search.study)["best"] is None
    trial = search.run(0.9)
    trial.history[-1].update(sharpness=math.nan, train_loss=math.inf)
    metrics = json.loads(json.dumps(json_summary(search.study), allow_nan=False))["best"]["metrics"]
    assert (metrics["sharpness"], metrics["train_loss"]) == (None, None)


def test_the_plan_of_a_built_in_space() -> None:
    from samtune.config.space import SearchSpace
    from samtune.experiments.plan import plan_search
    from samtune.raylib.cluster import Node

    output = io.StringIO()
    print_plan(
        plan_search(SearchSpace.from_yaml("digits.yaml"), [Node(4, 0)]),
        Console(file=output, width=80, markup=False, highlight=False),
    )
    text = output.getvalue()
    assert re.search(r"study +digits: 16 trials, max val_accuracy", text)
    assert re.search(r"workers +2 groups side by side, each 2 x 1 CPU", text)
    assert re.search(r"passes +2 per step, 24 per trial", text)
    assert re.search(r"total passes +384 over the training set", text)
    assert "method.rho: log_uniform 0.01 … 0.5" in text
    assert re.search(r"tried first +rho=0.05 lr=0.1 weight_decay=5e-04", text)


def test_the_best_so_far_is_on_the_pareto_front(search: Search) -> None:
    search.study.objectives = (Objective(), Objective("num_passes", "min"))
    tally = Tally(search.study)
    for epochs in (3, 1, 2):
        trial = search.start()
        for _ in range(epochs):
            search.epoch(trial, 0.9)
        tally.end(search.end(trial))
    assert tally.best is not None
    assert tally.best.number == 1
    assert search.study.best is tally.best


def test_no_replica_of_a_confirmation_is_called_the_best(search: Search) -> None:
    """It would be the best of its seeds on the test set."""
    search.study.kind = "confirmation"
    search.run(0.9)
    assert Tally(search.study).best is None


def test_the_time_left_is_that_of_the_pace_since_the_first_epoch(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    tally = Tally(search.study)
    clock = 0.0
    monkeypatch.setattr(samtune.terminal.tally.time, "time", lambda: clock)

    def after(seconds: float, trial: Trial) -> float | None:
        nonlocal clock
        clock += seconds
        search.epoch(trial, 0.5)
        tally.epoch()
        return tally.seconds_left

    tally.start(first := search.start())
    assert after(100.0, first) is None  # workers start, and the first epoch
    assert after(1.0, first) is None
    assert after(1.0, first) is None
    assert after(1.0, first) == pytest.approx(36.0)  # 3 of 10 epochs in 3 s: 3.6 of the 4 trials are left
    tally.end(search.end(first))  # stopped early
    assert tally.seconds_left == pytest.approx(12.0)  # three more trials of so many epochs
    again = Tally(search.study)
    assert again.seconds_left is None
    again.start(second := search.start())
    search.epoch(second, 0.5)
    again.epoch()
    clock += 1.0
    for _ in range(4):
        search.epoch(second, 0.5)
    again.epoch()
    # 8 passes took a second; the second trial has 10 to come, and two more have 8 each, as the first had.
    assert again.seconds_left == pytest.approx((10 + 2 * 8) / 8)


class Clocked:
    """A tally of a search at times that a test sets."""

    def __init__(self, search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
        self.search, self.now = search, 1000.0
        monkeypatch.setattr(samtune.terminal.tally.time, "time", lambda: self.now)
        monkeypatch.setattr(samtune.study.time, "time", lambda: self.now)
        self.tally = Tally(search.study)

    def start(self, epochs: int = 10) -> Trial:
        trial = self.search.start()
        trial.started_at, trial.num_epochs = self.now, epochs
        self.tally.start(trial)
        return trial

    def epoch(self, trial: Trial, seconds: float, passes: float = 2.0) -> None:
        self.now += seconds
        self.search.epoch(trial, 0.5)
        trial.history[-1]["num_passes"] = passes * len(trial.history)
        self.tally.epoch()

    def end(self, trial: Trial) -> None:
        trial.state, trial.ended_at = TrialState.COMPLETED, self.now
        self.tally.end(trial)


def test_the_clock_of_a_trial_runs_forward(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait for the workers is in a trial's time until its first epoch has ended, and then is not."""
    clocked = Clocked(search, monkeypatch)
    first, second = clocked.start(), clocked.start()
    clocked.now += 8.0
    seen = [clocked.tally.seconds_of(second)]
    assert clocked.tally.seconds_of(first) == 0.0  # workers start
    clocked.now += 2.0
    first.started_at = 1008.0
    clocked.epoch(first, 0.0)
    assert clocked.tally.seconds_of(first) == 2.0
    for _ in range(3):
        seen.append(clocked.tally.seconds_of(second))
        clocked.now += 1.0
    second.started_at = 1009.5
    clocked.epoch(second, 0.0)
    seen.append(clocked.tally.seconds_of(second))
    clocked.now += 1.0
    seen.append(clocked.tally.seconds_of(second))
    assert seen == [0.0, 2.0, 3.0, 4.0, 4.0, 4.5]
    clocked.end(second)
    assert clocked.tally.seconds_of(second) == 4.5


def test_a_first_epoch_of_minutes_has_a_clock(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    clocked = Clocked(search, monkeypatch)
    trial = clocked.start()
    clocked.now += 300.0
    assert clocked.tally.seconds_of(trial) == 300.0


def test_the_time_left_of_trials_of_different_cost_goes_by_their_passes(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A confirmation of SAM beside SGD for as many epochs: two trials of each, SGD first, a second for a pass."""
    search.study.plan = {"scheduler": "none", "passes_per_trial": (10.0, 20.0)}
    clocked = Clocked(search, monkeypatch)
    left = {}
    spent = 0.0
    for passes in (1.0, 1.0, 2.0, 2.0):
        trial = clocked.start()
        for _ in range(10):
            clocked.epoch(trial, passes, passes)
            spent += passes
            left[spent] = clocked.tally.seconds_left
        clocked.end(trial)
    assert all(60.0 - at == pytest.approx(value, abs=10.0) for at, value in left.items() if value is not None)
    assert left[50.0] == pytest.approx(10.0)


def test_the_time_left_runs_down_while_an_epoch_is_under_way(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    clocked = Clocked(search, monkeypatch)
    trial = clocked.start()
    for _ in range(4):
        clocked.epoch(trial, 1.0)
    seen = [clocked.tally.seconds_left]
    for _ in range(2):
        clocked.now += 0.25
        seen.append(clocked.tally.seconds_left)
    assert seen == pytest.approx([36.0, 35.75, 35.5])


@pytest.mark.parametrize(
    ("stopped_by", "command"),
    [
        ("budget.seconds: 0:10 are over", "  # continue for as long again"),
        ("budget.passes: 40 of 40 passes were made", " --set budget.passes=80  # "),
        ("budget.patience: 3 trials in a row were no better", " --set budget.patience=6  # "),
    ],
)
def test_a_search_that_its_budget_ended_goes_on_with_another(search: Search, stopped_by: str, command: str) -> None:
    search.study.space_yaml = "budget: {passes: 40, patience: 3}"
    search.run(0.9)
    search.study.stopped_by = stopped_by
    assert re.search(f"{RESUME}.*{command}", printed(search))
