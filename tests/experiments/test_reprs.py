"""What a person sees of the public objects: short in a console, a table in a notebook, progress at a terminal."""

from __future__ import annotations

import io
import os
import pty
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from helpers.studies import make_study

from samtune import SearchSpace, Trial, Tuner, UsageError
from samtune.experiments.plan import plan_search
from samtune.experiments.progress import display_for
from samtune.experiments.results import Results
from samtune.html_table import html_table
from samtune.raylib.cluster import Node
from samtune.study import Callback
from samtune.terminal import LiveDisplay, PlainDisplay, make_console


class Cells(HTMLParser):
    """The text of each cell and line; fails on a tag that is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.found.append(data)


def test_results_are_a_line_and_a_table_with_the_verdict(tmp_path: Path) -> None:
    study = make_study(tmp_path, methods=("sam", "sgd"))
    study.plan["num_validation"] = 500
    results = Results(study)
    assert repr(results).startswith("Results('digits-1', 12 trials, best val_accuracy 0.")
    cells = Cells(results._repr_html_()).found
    assert cells[0].startswith("digits-1: 9 completed, 2 pruned, 1 failed of 12 trials")
    assert cells[1:7] == ["trial", "val_accuracy", "method", "rho", "lr", "time"]
    assert cells[8] == str(results.best.number)
    assert any("(standard error) on 500 validation examples" in cell for cell in cells)


def test_a_trial_is_one_line_and_a_table(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    text = repr(study.trials[0])
    assert text.startswith("Trial(0, completed, epoch 4/4, val_accuracy 0.")
    assert "method.rho=0." in text
    assert len(text) < 120
    failed = study.trials[9]
    assert repr(failed).endswith("'diverged: train_loss is nan in epoch 2')")
    assert "diverged: train_loss is nan in epoch 2" in Cells(failed._repr_html_()).found
    assert repr(Trial(3, "t", {}, {}, 5)) == "Trial(3, waiting, epoch 0/5)"


def test_a_tuner_names_its_study(tmp_path: Path) -> None:
    tuner = Tuner("digits.yaml", name="mine", storage_path=tmp_path)
    assert repr(tuner) == f"<Tuner of study mine in {tmp_path / 'mine'}>"


def test_a_space_and_a_plan_are_lines_and_tables() -> None:
    space = SearchSpace.from_yaml("digits.yaml")
    assert repr(space) == str(space) == "SearchSpace('digits', 3 searched keys, 16 trials, max val_accuracy)"
    cells = Cells(space._repr_html_()).found
    assert cells[:3] == ["digits: 16 trials, max val_accuracy", "key", "searched in"]
    assert cells[3:5] == ["method.rho", "log_uniform 0.01 … 0.5"]
    plan = plan_search(space, [Node(4, 0)])
    assert repr(plan) == "Plan('digits', 16 trials, 2 groups of 2 workers, max val_accuracy)"
    shown = Cells(plan._repr_html_()).found
    assert shown[shown.index("passes per trial") + 1] == "24"
    assert "method.rho: log_uniform 0.01 … 0.5" in shown[shown.index("searched") + 1]


def test_what_a_stranger_wrote_is_text_in_a_notebook() -> None:
    text = html_table("<b>", ["<script>"], [["a & b", "\u202e"]], ["</div>"])
    assert Cells(text).found == ["<b>", "<script>", "a & b", "\ufffd", "</div>"]


def test_progress_is_shown_at_a_terminal_and_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert display_for("auto", []) == []
    assert [type(each) for each in display_for("lines", [])] == [PlainDisplay]
    monkeypatch.setenv("TERM", "xterm")
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        assert [type(each) for each in display_for("auto", [Callback()])] == [LiveDisplay]
        assert display_for("none", []) == []
        assert display_for("auto", [PlainDisplay(make_console())]) == []  # one is enough
    os.close(leader)
    with pytest.raises(UsageError, match="progress always: must be one of auto, lines, none"):
        display_for("always", [])  # type: ignore[arg-type]
