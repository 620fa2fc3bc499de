"""Single figures for papers and slides, by matplotlib: PNG, SVG, PDF."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from samtune.config.yaml_source import did_you_mean
from samtune.errors import RunError, UsageError
from samtune.experiments.confirmed_study import confirmation_in
from samtune.experiments.results import Results
from samtune.formatting import format_number
from samtune.report import sam
from samtune.report.candidates import intervals_drawn
from samtune.report.enough import check_enough, check_kind
from samtune.report.importances import importances_drawn
from samtune.report.style import BLUE, GREY, ORANGE, STATE_COLOURS, log_ticks
from samtune.report.timeline import spans
from samtune.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = (
    "rho",
    "candidates",
    "history",
    "importances",
    "slices",
    "contour",
    "parallel",
    "pareto",
    "diagnostics",
    "timeline",
)

_OPTUNA = {
    "history": "plot_optimization_history",
    "slices": "plot_slice",
    "contour": "plot_contour",
    "parallel": "plot_parallel_coordinate",
}
_RC: Any = {"savefig.dpi": 200, "savefig.bbox": "tight", "axes.spines.top": False, "axes.spines.right": False}
_RC |= {"svg.fonttype": "none", "pdf.fonttype": 42}  # text stays text: journals ask for it


def save_plot(results: Results, kind: str, target: Path | BinaryIO, file_format: str) -> None:
    """Draws one figure of a study and writes it.

    Args:
        kind: one of KINDS.
        file_format: png, svg, pdf.

    Raises:
        UsageError: there is no such kind, or it does not suit what was searched.
        RunError: the study has no data for it.
        OSError: it cannot be written.
    """
    if kind not in KINDS:
        raise UsageError(f"unknown{did_you_mean(kind, KINDS)}", argument="kind", value=kind)
    import matplotlib
    from optuna.exceptions import ExperimentalWarning

    matplotlib.use("Agg")
    own: dict[str, Callable[[Study], Figure]] = {"rho": _rho, "diagnostics": _diagnostics, "timeline": _timeline}
    own["candidates"] = _candidates
    check_kind(results.study, kind)
    with matplotlib.rc_context(_RC), warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # as Optuna calls its matplotlib plots
        if kind == "importances":
            figure = importances_drawn(results)
        else:
            figure = own[kind](results.study) if kind in own else _optuna(results, kind)
        figure.savefig(target, format=file_format)


def all_plots(results: Results) -> Iterator[tuple[str, str]]:
    """(kind, SVG) of every figure that the study has data for."""
    for kind in KINDS:
        drawing = io.BytesIO()
        try:
            save_plot(results, kind, drawing, "svg")
        except (RunError, UsageError):
            continue
        yield kind, drawing.getvalue().decode()


def _candidates(study: Study) -> Figure:
    confirmation = confirmation_in(study)
    if confirmation is None:
        raise UsageError(f"study {study.name} is a {study.kind}: candidates are of a confirmation")
    return intervals_drawn(confirmation)


def _optuna(results: Results, kind: str) -> Figure:
    import optuna.visualization.matplotlib as optuna_plots
    from matplotlib import pyplot

    study, told = results.study, results.optuna_study()
    sam.best_and_worst(study)  # Optuna draws an empty picture where there are no two trials
    if kind == "contour":
        check_enough(study)
    options: dict[str, Any] = {}
    if kind == "pareto":
        if not 2 <= len(study.objectives) <= 3:
            raise UsageError(f"study {study.name}: a Pareto front has two or three objectives")
        options["target_names"] = [objective.metric for objective in study.objectives]
    else:
        options["target_name"] = study.objective.metric
        if len(study.objectives) > 1:
            options["target"] = lambda trial: trial.values[0]
    if kind == "contour":
        names = {name.rpartition(".")[2]: name for trial in told.trials for name in trial.params}
        if not {"rho", "lr"} <= set(names):
            raise UsageError(f"study {study.name}: the search is not over rho and lr")
        options["params"] = [names["rho"], names["lr"]]
    getattr(optuna_plots, _OPTUNA.get(kind, "plot_pareto_front"))(told, **options)
    figure: Figure = pyplot.gcf()
    for axes in figure.axes:
        axes.set_facecolor("white")
        axes.set_axisbelow(True)
        for where in ("left", "center"):
            axes.set_title("", loc=where)
        if kind not in ("contour", "parallel"):
            axes.grid(True, color="0.9")
        _label_log_axes(axes)
    figure.suptitle("")
    pyplot.close(figure)
    return figure


def _rho(study: Study) -> Figure:
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    points, best = sam.response_points(study), sam.envelope(study)
    figure = Figure(figsize=(5.0, 3.4))
    axes = figure.add_subplot()
    axes.plot(*zip(*best, strict=True), ":", color=GREY, label="best of each part", zorder=1)
    rates = [sam.number(trial, "training.lr") or 1.0 for _, _, trial in points]
    norm = LogNorm(min(rates), max(rates)) if min(rates) < max(rates) else None
    methods = list(dict.fromkeys(str(trial.params.get("method.name")) for _, _, trial in points))
    for method, marker in zip(methods, "oDs^Pv*X" * len(methods), strict=False):
        own = [(r, v, rate) for (r, v, t), rate in zip(points, rates, strict=True) if t.params["method.name"] == method]
        rho, values, colours = zip(*own, strict=True)
        drawn = axes.scatter(
            rho, values, c=colours, norm=norm, marker=marker, label=method, edgecolors="0.3", linewidths=0.5, zorder=2
        )
    figure.colorbar(drawn, label="learning rate")
    axes.set(xscale="log", xlabel="rho", ylabel=study.objective.metric)
    axes.legend(frameon=False, fontsize="small")
    _label_log_axes(axes)
    return figure


def _label_log_axes(axes: Axes) -> None:
    """Ticks at 1, 2 and 5: matplotlib's own run into each other on a short axis."""
    from matplotlib.ticker import NullLocator

    for axis, scale, limits in (
        (axes.xaxis, axes.get_xscale(), axes.get_xlim()),
        (axes.yaxis, axes.get_yscale(), axes.get_ylim()),
    ):
        if scale == "log":
            ticks = [tick for tick in log_ticks(*limits) if limits[0] <= tick <= limits[1]]
            axis.set_ticks(ticks, [format_number(tick) for tick in ticks])
            axis.set_minor_locator(NullLocator())


def _diagnostics(study: Study) -> Figure:
    from matplotlib.figure import Figure

    pair = sam.best_and_worst(study)
    shown = sam.shown_diagnostics(pair)
    rows = -(-len(shown) // 3)
    figure = Figure(figsize=(9.0, 2.4 * rows), layout="constrained")
    for index, (name, title) in enumerate(shown.items(), start=1):
        axes = figure.add_subplot(rows, 3, index)
        for trial, label, colour in zip(pair, ("best", "worst"), (BLUE, ORANGE), strict=True):
            values = [(r["epoch"], r[name]) for r in trial.history if name in r]
            if values:
                axes.plot(*zip(*values, strict=True), color=colour, label=f"{label} (trial {trial.number})")
        axes.set(xlabel="epoch", ylabel=title)
    figure.axes[0].legend(frameon=False, fontsize="small")
    return figure


def _timeline(study: Study) -> Figure:
    from matplotlib.figure import Figure

    busy = [span for trial in study for span in spans(trial)]
    if not busy:
        raise RunError(f"study {study.name}: no epoch was finished yet")
    zero = min(study.started_at, *(span.start for span in busy))
    groups = sorted({span.group for span in busy})
    figure = Figure(figsize=(8.0, 0.9 + 0.5 * len(groups)))
    axes = figure.add_subplot()
    for state, colour in STATE_COLOURS.items():
        own = [span for span in busy if str(span.trial.state) == state]
        lefts, widths = [s.start - zero for s in own], [s.end - s.start for s in own]
        if own:
            heights = [f"group {s.group}" for s in own]
            axes.barh(heights, widths, left=lefts, color=colour, label=state, edgecolor="white", linewidth=0.5)
    axes.invert_yaxis()
    axes.set(xlabel="seconds since the start")
    axes.legend(frameon=False, fontsize="small", ncols=5, loc="lower left", bbox_to_anchor=(0, 1))
    return figure
