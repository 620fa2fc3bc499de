"""The figures of a report, as plotly figures: Optuna's where Optuna has them, our own where it has none."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from samtune.errors import RunError
from samtune.experiments.confirmation import Confirmation
from samtune.experiments.confirmed_study import confirmation_in
from samtune.experiments.results import Results
from samtune.report import candidates, importances, sam, timeline
from samtune.report.enough import check_enough
from samtune.report.history import history
from samtune.report.style import colour_at, dress
from samtune.report.thinning import MOST_INTERPOLATED, MOST_LINES, MOST_POINTS, note, thinned_study
from samtune.study import TrialState

if TYPE_CHECKING:
    import optuna
    import plotly.graph_objects as go


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        key: names it in files and links.
        title, caption: what it shows, and how to read it.
        parts: one plotly figure, or several that stand side by side where there is room.
    """

    key: str
    title: str
    caption: str
    parts: tuple[go.Figure, ...]


def figures(results: Results) -> Iterator[Figure | str]:
    """All figures that a study has data for, in the order of a report; of the others, the reason in a line."""
    for key, title, caption, build in _builders(results):
        try:
            parts = build()
        except RunError as error:
            yield f"{title}: {error}"
        else:
            yield Figure(key, title, caption, tuple(dress(part) for part in parts))


_Builder = tuple[str, str, str, "Callable[[], list[go.Figure]]"]


def _builders(results: Results) -> Iterator[_Builder]:
    confirmation = confirmation_in(results.study)
    yield from _of_search(results) if confirmation is None else _of_candidates(confirmation)
    yield (
        "timeline",
        "Where the time went",
        "One bar per worker group: start-up, trials, and what lies between them idle.",
        lambda: [timeline.timeline(results.study)],
    )


def _of_candidates(confirmation: Confirmation) -> Iterator[_Builder]:
    yield (
        "candidates",
        f"{confirmation.metric} of each candidate",
        "Each pale point is a replica, each diamond the mean of the candidate with its 95% confidence interval. "
        "* marks the baseline.",
        lambda: [candidates.intervals(confirmation)],
    )
    yield (
        "diagnostics",
        "Training of each candidate",
        "The mean of its completed replicas, epoch by epoch. Sharpness is the mean of L(w + ε̂) − L(w); the cosine is "
        "between the perturbation and the descent gradient.",
        lambda: candidates.curves(confirmation),
    )


def _of_search(results: Results) -> Iterator[_Builder]:
    study, plots = results.study, _OptunaPlots(results)
    metric = study.objective.metric
    count = study.count(TrialState.COMPLETED)
    points = note(count, MOST_POINTS)
    yield (
        "rho",
        f"{metric} over rho",
        "Each point is a completed trial, coloured by its learning rate. The line joins the best trial of each third "
        f"of a decade: what can be reached at this rho when the rest is tuned.{points}",
        lambda: [sam.response(study)],
    )
    if len(study.objectives) > 1:
        yield (
            "pareto",
            "Pareto front",
            f"Trials that no other beats in every objective are on the front.{points}",
            plots.pareto,
        )
    yield (
        "history",
        "History of the search",
        f"The completed trials in their order, and the best so far.{points}",
        lambda: [history(study)],
    )
    yield (
        "importances",
        "What matters",
        "How much each key decides whether a trial is among the best (PED-ANOVA), with its standard error: the "
        "bootstrap over the completed trials.",
        lambda: [importances.importances(results)],
    )
    yield (
        "slices",
        "One key at a time",
        f"{metric} of every completed trial over each searched key; the later the trial, the warmer "
        f"its colour.{points}",
        plots.slices,
    )
    yield (
        "contour",
        "rho and learning rate",
        f"{metric} over both at once, interpolated between the trials (points).{note(count, MOST_INTERPOLATED)}",
        lambda: plots.contour("rho", "lr"),
    )
    yield (
        "parallel",
        "All keys at once",
        f"One line per trial, coloured by its {metric}.{note(count, MOST_LINES)}",
        plots.parallel,
    )
    yield (
        "diagnostics",
        "SAM over training, best and worst",
        "Sharpness is the mean of L(w + ε̂) − L(w); the cosine is between the perturbation and the descent gradient.",
        lambda: sam.diagnostics(study),
    )


class _OptunaPlots:
    """Optuna's own plots of a study, by its first objective where there are several."""

    def __init__(self, results: Results) -> None:
        self._results, self._study = results, results.study
        self._told: optuna.Study | None = None
        self._smaller: dict[int, optuna.Study] = {}

    @property
    def _optuna(self) -> optuna.Study:
        if self._told is None:
            self._told = self._results.optuna_study()
        if self._study.count(TrialState.COMPLETED) < 2:
            raise RunError("it takes two completed trials")
        return self._told

    @property
    def _target(self) -> dict[str, Any]:
        target = (lambda trial: trial.values[0]) if len(self._study.objectives) > 1 else None
        return {"target": target, "target_name": self._study.objective.metric}

    def slices(self) -> list[go.Figure]:
        from optuna.visualization import plot_slice

        figures = []
        for name in self._names():
            figure = self._plot(plot_slice, MOST_POINTS, params=[name]).update_traces(marker_showscale=False)
            figures.append(figure.update_yaxes(title=self._study.objective.metric))
        return figures

    def contour(self, *leaves: str) -> list[go.Figure]:
        from optuna.visualization import plot_contour

        check_enough(self._study)
        names = [name for leaf in leaves for name in self._names() if name.rpartition(".")[2] == leaf]
        if len(names) != len(leaves):
            raise RunError(f"the search is not over one {' and one '.join(leaves)}")
        return [self._plot(plot_contour, MOST_INTERPOLATED, params=names)]

    def parallel(self) -> list[go.Figure]:
        from optuna.visualization import plot_parallel_coordinate

        shared = self._names(of_all=True)
        if not shared:
            raise RunError("the trials have no key in common")
        figure = self._plot(plot_parallel_coordinate, MOST_LINES, params=shared)
        for trace in figure.data:
            if trace.mode == "lines" and trace.y[0] is not None:  # begins on the objective's axis, at 0 to 1
                trace.line.color = colour_at(float(trace.y[0]))
        return [figure]

    def pareto(self) -> list[go.Figure]:
        from optuna.visualization import plot_pareto_front

        if len(self._study.objectives) > 3:
            raise RunError("a picture has three objectives at most")
        names = [objective.metric for objective in self._study.objectives]
        with _quiet():
            return [plot_pareto_front(self._thinned(MOST_POINTS), target_names=names)]

    def _plot(self, plot: Callable[..., go.Figure], most: int, **options: Any) -> go.Figure:
        with _quiet():
            return plot(self._thinned(most), **self._target, **options)

    def _thinned(self, most: int) -> optuna.Study:
        if most not in self._smaller:
            maximize = self._study.objective.mode == "max"
            self._smaller[most] = thinned_study(self._optuna, most, maximize=maximize)
        return self._smaller[most]

    def _names(self, *, of_all: bool = False) -> list[str]:
        """Optuna's names of the searched keys, in the order of the search."""
        completed = [trial.params for trial in self._optuna.trials if trial.state.name == "COMPLETE"]
        names = dict.fromkeys(name for params in completed for name in params)
        return [name for name in names if not of_all or all(name in params for params in completed)]


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna's warnings are for who calls it: about its experimental parts, and of what it leaves out."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.simplefilter("ignore", UserWarning)
        yield
