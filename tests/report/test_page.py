"""The report in a real browser, and single plots as files."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import pytest
from helpers.browser import open_page
from helpers.studies import METHODS, make_confirmation, make_large_study, make_study
from rich.console import Console
from typer.testing import CliRunner

from samtune.cli.app import app
from samtune.errors import RunError, UsageError
from samtune.experiments.json_summary import json_summary
from samtune.experiments.results import Results
from samtune.report.candidates import mean_curve
from samtune.report.figures import Figure, figures
from samtune.report.page import render
from samtune.report.plots import KINDS, all_plots, save_plot
from samtune.report.style import log_ticks
from samtune.report.thinning import thinned
from samtune.report.timeline import Span, put_together, spans
from samtune.study import EpochLog, EpochRecord, Objective, TrialState
from samtune.terminal import print_status

SAM = {"method": {"name": "sam"}}
TWO = (Objective(), Objective("sharpness", "min"))


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    storage = tmp_path_factory.mktemp("studies")
    make_study(storage, num_trials=40)
    make_study(storage, name="few", num_trials=12)
    make_study(storage, name="methods", methods=METHODS, num_trials=50)
    make_study(storage, name="two", objectives=TWO, num_trials=30)
    make_study(storage, name="single", num_trials=1)
    return storage


def _report(storage: Path, name: str, target: Path) -> Path:
    arguments = ["report", name, "-o", str(target), "--storage-path", str(storage)]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.output.strip() == str(target)
    return target


@pytest.mark.browser
@pytest.mark.parametrize(("name", "width", "dark"), [("digits-1", 1280, False), ("methods", 400, True)])
def test_the_page_draws_every_plot_and_asks_for_nothing(
    storage: Path, tmp_path: Path, name: str, width: int, dark: bool
) -> None:
    page_file = _report(storage, name, tmp_path / "report.html")
    with open_page(page_file.as_uri(), width=width, dark=dark) as (page, problems):
        page.wait_for_function("document.documentElement.dataset.drawn")
        drawn = page.evaluate(
            """[...document.querySelectorAll(".plot")].map((node) => ({
                id: node.id, traces: node.data.length,
                marks: node.querySelectorAll("svg .trace path, svg .contour path, svg .points path").length,
                wide: node.getBoundingClientRect().right > document.documentElement.clientWidth }))"""
        )
        overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert problems == []
    keys = {plot["id"].rpartition("-")[0] for plot in drawn}
    expected = {"rho", "history", "importances", "slices", "contour", "parallel", "diagnostics", "timeline"}
    assert keys == expected
    assert not [plot for plot in drawn if not plot["traces"] or not plot["marks"] or plot["wide"]]
    assert overflow <= 0


@pytest.mark.browser
def test_the_page_of_ten_thousand_trials_is_small_and_opens(tmp_path: Path) -> None:
    page_file = tmp_path / "report.html"
    page_file.write_text(render(make_large_study(10_000)), encoding="utf-8")
    assert page_file.stat().st_size < 5_000_000
    with open_page(page_file.as_uri(), width=1280) as (page, problems):
        page.wait_for_function("document.documentElement.dataset.drawn")
        drawn = page.evaluate('[...document.querySelectorAll(".plot")].map((node) => node.id)')
        captions = page.inner_text("main")
    assert problems == []
    keys = {name.rpartition("-")[0] for name in drawn}
    assert keys == {"rho", "history", "importances", "slices", "contour", "parallel", "diagnostics", "timeline"}
    assert "Of 9,800 trials, the best 250 are shown and a sample of 750 others." in captions


def test_a_page_says_what_was_trained() -> None:
    page = render(make_large_study(4, num_keys=0))
    assert "cifar10 · wide_resnet · sam · 2 epochs · 64 to 128 examples a batch · 2026-09-" in page


def test_what_is_one_point_is_a_sentence(tmp_path: Path) -> None:
    make_study(tmp_path, num_epochs=1)
    drawn = list(figures(Results.load("digits-1", tmp_path)))
    assert "SAM over training, best and worst: it takes two epochs" in drawn
    assert "diagnostics" not in [figure.key for figure in drawn if isinstance(figure, Figure)]


def test_axes_of_whole_numbers_have_no_ticks_between_them(storage: Path) -> None:
    drawn = {figure.key: figure for figure in figures(Results.load("digits-1", storage)) if isinstance(figure, Figure)}
    axes = [part.layout.xaxis for part in drawn["diagnostics"].parts]
    assert axes
    assert [(axis.dtick, axis.tickformat) for axis in axes] == [(1, "d")] * len(axes)


def test_thinning_keeps_the_best_and_spreads_the_others() -> None:
    items = list(range(100))
    kept = thinned(items, 20, lambda item: -item)
    assert len(kept) == 20
    assert kept == sorted(kept)
    assert kept[-5:] == [95, 96, 97, 98, 99]  # the best quarter
    assert max(after - before for before, after in itertools.pairwise(kept)) == 7  # of 95 others every 6.3rd
    assert thinned(items, 100, lambda item: item) == items


def test_many_spans_are_put_together_without_losing_time(tmp_path: Path) -> None:
    trials = make_study(tmp_path).trials
    many = [Span(n % 2, trials[5 if n % 20 < 8 else 0], 3.0 * (n // 2), 3.0 * (n // 2) + 2.0) for n in range(1000)]
    few = put_together(many, most=100)
    assert 90 <= len(few) <= 110
    assert sum(span.num_trials for span in few) == 1000
    assert sum(span.end - span.start for span in few) == pytest.approx(2000.0)
    assert {span.trial.state for span in few} == {TrialState.COMPLETED}  # 12 of 20 in each part
    for group in (0, 1):
        own = [span for span in few if span.group == group]
        assert all(first.end <= second.start for first, second in itertools.pairwise(own))
    assert put_together(many, most=1000) == many


def test_two_objectives_have_their_front_on_the_page(storage: Path) -> None:
    drawn = [figure.key for figure in figures(Results.load("two", storage)) if isinstance(figure, Figure)]
    assert "pareto" in drawn
    assert "contour" in drawn


def test_importances_and_maps_take_ten_trials_a_key(storage: Path) -> None:
    drawn = list(figures(Results.load("few", storage)))
    keys = {figure.key for figure in drawn if isinstance(figure, Figure)}
    assert "slices" in keys
    assert not keys & {"importances", "contour"}
    reason = "it takes 20 completed trials, 10 for each of 2 searched keys; this search has 9"
    assert {f"What matters: {reason}", f"rho and learning rate: {reason}"} <= {str(line) for line in drawn}
    for kind in ("importances", "contour"):
        with pytest.raises(RunError, match=f"^{reason}$"):
            save_plot(Results.load("few", storage), kind, io.BytesIO(), "svg")


def test_a_search_with_constraints_has_all_its_figures(tmp_path: Path) -> None:
    make_study(tmp_path, constrained=True)
    drawn = [figure.key for figure in figures(Results.load("digits-1", tmp_path)) if isinstance(figure, Figure)]
    assert "parallel" in drawn


def test_what_cannot_be_drawn_is_said_on_the_page(storage: Path, tmp_path: Path) -> None:
    text = _report(storage, "single", tmp_path / "report.html").read_text(encoding="utf-8")
    assert "History of the search: it takes two completed trials" in text


def test_the_yaml_is_on_the_page_as_text(storage: Path, tmp_path: Path) -> None:
    text = _report(storage, "digits-1", tmp_path / "report.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;not bold&lt;/b&gt;" in text
    assert "<b>not bold</b>" not in text


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "candidates"])
def test_plot_writes_each_kind(storage: Path, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "plot.svg"
    name = "two" if kind == "pareto" else "digits-1"
    arguments = ["plot", name, "--kind", kind, "-o", str(target), "--storage-path", str(storage)]
    CliRunner().invoke(app, arguments, catch_exceptions=False)
    drawing = target.read_text(encoding="utf-8")
    assert drawing.count("<path") > 10
    assert "<text" in drawing  # letters stay letters


@pytest.mark.parametrize(("suffix", "head"), [("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_plot_writes_the_format_that_the_name_says(storage: Path, tmp_path: Path, suffix: str, head: bytes) -> None:
    target = tmp_path / f"plot.{suffix}"
    arguments = ["plot", "digits-1", "--kind", "rho", "-o", str(target), "--storage-path", str(storage)]
    CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert target.read_bytes().startswith(head)


def test_an_unknown_kind_is_refused_with_the_nearest(storage: Path) -> None:
    arguments = ["plot", "digits-1", "--kind", "contuor", "-o", "x.png", "--storage-path", str(storage)]
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, UsageError)
    assert "did you mean 'contour'" in str(done.exception)


def test_a_trial_that_changes_its_group_has_two_spans(tmp_path: Path) -> None:
    trial = make_study(tmp_path).trials[0]
    start = trial.started_at
    assert start is not None
    epochs = enumerate([(0, start + 1.0), (0, start + 2.0), (1, start + 9.0), (1, start + 10.0)], 1)
    trial.history = EpochLog(EpochRecord({"epoch": n, "epoch_seconds": 1.0}, *where) for n, where in epochs)
    assert [(span.group, span.start - start, span.end - start) for span in spans(trial)] == [(0, 0, 2), (1, 8, 10)]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0.02, 0.5, [0.02, 0.05, 0.1, 0.2, 0.5]), (1e-5, 1e-2, [1e-5, 1e-4, 1e-3, 1e-2]), (0.04, 0.06, [0.05])],
)
def test_ticks_of_a_log_axis_are_round(low: float, high: float, ticks: list[float]) -> None:
    assert log_ticks(low, high) == ticks


def test_a_confirmation_is_on_the_page(tmp_path: Path) -> None:
    """Of three replicas, one is still missing."""
    search = make_study(tmp_path)
    make_confirmation(tmp_path, {"trial 3 (sam)": (0.95, 0.96)}, replicas=3, searched=0.97)
    text = _report(tmp_path, search.name, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<td>trial 3 (sam)</td>" in text
    assert "<td>0.9550 ± 0.0635</td>" in text  # t(0.975, 1) = 12.706, s/sqrt(2) = 0.005
    assert "<td>+0.0150</td>" in text
    assert "1 replica is missing" in text
    assert text.index("Verdict</h2>") < text.index("Confirmed</h2>") < text.index("Leaderboard</h2>")
    line = "confirmed, test_accuracy: trial 3 (sam) 0.9550 ± 0.0635; the search had measured 0.9700"
    assert f"<li>{line}</li>" in text
    # It leads wherever the search is shown, whose own values are called what they were.
    output = io.StringIO()
    print_status(Console(file=output, width=100), search, running=False)
    shown = output.getvalue()
    assert (
        shown.index("0.9550 ± 0.0635") < shown.index("what the search had measured") < shown.index("best val_accuracy")
    )
    summary = json_summary(search)["verdict"]
    assert summary["lines"][0] == line
    assert summary["confirmation"]["candidates"][0]["mean"] == pytest.approx(0.955)


CANDIDATES = {
    "sgd (4 epochs)": (0.94, 0.95, 0.96),
    "trial 3 (sam)": (0.90, 0.99, 0.91),
    "trial 5 (sam)": (0.95, 0.96, 0.97),
}


@pytest.mark.browser
def test_the_page_of_a_confirmation_is_about_candidates(tmp_path: Path) -> None:
    """The best replica is of trial 3, the best candidate is trial 5."""
    make_confirmation(tmp_path, CANDIDATES, replicas=3, baselines=["sgd (4 epochs)"])
    page_file = _report(tmp_path, "digits-1-confirm", tmp_path / "report.html")
    with open_page(page_file.as_uri(), width=400, dark=True) as (page, problems):
        page.wait_for_function("document.documentElement.dataset.drawn")
        drawn = page.evaluate('[...document.querySelectorAll(".plot")].map((n) => [n.id, n.data.length])')
        labels = page.evaluate('[...document.querySelectorAll("#candidates-1 .ytick text")].map((n) => n.textContent)')
        points = page.evaluate(
            '[...document.getElementById("candidates-1").data].filter((d) => !d.error_x).map((d) => [...d.x])'
        )
        text = page.inner_text("body")
        overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert problems == []
    assert labels == ["trial 5 (sam)", "sgd (4 epochs) *", "trial 3 (sam)"]
    assert points == [list(CANDIDATES[label.removesuffix(" *")]) for label in labels]
    assert ["candidates-1", 6] in drawn
    assert {name.rpartition("-")[0] for name, _ in drawn} == {"candidates", "diagnostics", "timeline"}
    assert "best candidate trial 5 (sam): test_accuracy 0.9600 ± 0.0248 (3 replicas)" in text  # t(0.975, 2) = 4.303
    assert "9 of 9 completed" in text
    assert "The confirmation was started with" in text
    assert "samtune confirm digits-1-confirm" not in text
    assert "--set" not in text
    assert overflow <= 0


def test_a_confirmation_has_figures_of_its_own(tmp_path: Path) -> None:
    make_confirmation(tmp_path, CANDIDATES, replicas=3, baselines=["sgd (4 epochs)"])
    results = Results.load("digits-1-confirm", tmp_path)
    assert [kind for kind, _ in all_plots(results)] == ["candidates", "diagnostics", "timeline"]
    for kind in ("history", "slices", "rho"):
        with pytest.raises(RunError, match=r"^a confirmation repeats its candidates; nothing was searched$"):
            save_plot(results, kind, io.BytesIO(), "svg")
    make_study(tmp_path)
    with pytest.raises(UsageError, match=r"^study digits-1 is a search: candidates are of a confirmation$"):
        save_plot(Results.load("digits-1", tmp_path), "candidates", io.BytesIO(), "svg")


def test_the_curve_of_a_candidate_is_the_mean_of_its_replicas(tmp_path: Path) -> None:
    study = make_confirmation(tmp_path, {"a": (0.5, 0.5)}, replicas=2)
    for trial, losses in zip(study, ([4.0, 2.0], [2.0, 1.0, 0.5]), strict=True):
        trial.history = EpochLog({"epoch": float(n), "train_loss": loss} for n, loss in enumerate(losses, 1))
    assert mean_curve(list(study), "train_loss") == [(1.0, 3.0), (2.0, 1.5)]  # the third epoch has one replica


def test_the_status_of_a_confirmation_is_about_candidates(tmp_path: Path) -> None:
    study = make_confirmation(tmp_path, CANDIDATES, replicas=3, baselines=["sgd (4 epochs)"])
    output = io.StringIO()
    print_status(Console(file=output, width=100), study, running=False)
    shown = output.getvalue()
    assert shown.index("0.9600 ± 0.0248") < shown.index("0.9500 ± 0.0248")  # in the order of the means
    assert "the best weights (trial 5 (sam)), in Python:" in shown
    assert f"samtune report digits-1-confirm --storage-path {tmp_path}" in shown
    assert "samtune confirm digits-1 --replicas 6" in shown.partition("what next")[2]
    assert "samtune confirm digits-1-confirm" not in shown
    assert "samtune best" not in shown
    found = json_summary(study)["confirmation"]["candidates"]
    assert [each["label"] for each in found] == ["trial 5 (sam)", "sgd (4 epochs)", "trial 3 (sam)"]
