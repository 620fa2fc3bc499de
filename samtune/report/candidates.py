"""What only a confirmation has: each candidate with its interval and its replicas, and its mean over training."""

from __future__ import annotations

import html
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from samtune.errors import RunError
from samtune.experiments.confirmation import Confirmation, Confirmed, format_estimate
from samtune.formatting import printable
from samtune.report.sam import shown_diagnostics
from samtune.report.style import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, whole_numbers
from samtune.study import CANDIDATE, Study, Trial, TrialState

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from matplotlib.figure import Figure

_COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, GREY)


def measured(confirmation: Confirmation) -> list[Confirmed]:
    """The candidates with a completed replica, the best first.

    Raises:
        RunError: there is none.
    """
    rows = [row for row in confirmation.rows if row.values]
    if not rows:
        raise RunError("no replica was completed yet")
    return rows


def intervals(confirmation: Confirmation) -> go.Figure:
    """Replicas as points, above them mean and 95% interval; the best candidate on top. Raises as `measured` does."""
    import plotly.graph_objects as go

    rows, figure = measured(confirmation), go.Figure()
    for index, row in enumerate(rows):
        colour, seeds = _COLOURS[index % len(_COLOURS)], sorted(row.values)
        figure.add_scatter(
            x=[row.values[seed] for seed in seeds],
            y=[index + 0.2] * len(seeds),
            mode="markers",
            marker={"color": colour, "size": 8, "opacity": 0.45},
            text=[f"replica {seed}" for seed in seeds],
            hovertemplate=f"{_text(row.label)}, %{{text}}<br>%{{x:.4f}}<extra></extra>",
        )
        assert row.estimate is not None  # it has values
        figure.add_scatter(
            x=[row.estimate.mean],
            y=[index - 0.1],
            mode="markers",
            marker={"color": colour, "size": 11, "symbol": "diamond"},
            error_x={"type": "data", "array": [row.estimate.half_width or 0.0], "color": colour, "thickness": 2},
            hovertemplate=f"{_text(row.label)}: {format_estimate(row.estimate)}<extra></extra>",
        )
    figure.update_layout(showlegend=False, height=130 + 56 * len(rows))
    labels = [_text(row.label + (" *" if row.label == confirmation.baseline else "")) for row in rows]
    figure.update_yaxes(tickvals=list(range(len(rows))), ticktext=labels, range=[len(rows) - 0.5, -0.5])
    return figure.update_xaxes(title=confirmation.metric)


def curves(confirmation: Confirmation) -> list[go.Figure]:
    """One figure per diagnostic over the epochs: a line per candidate, the mean of its replicas.

    Raises:
        RunError: no replica was completed, or all have one epoch: a point, and no curve.
    """
    import plotly.graph_objects as go

    replicas = {row.label: completed(confirmation.study, row.label) for row in measured(confirmation)}
    trials = [trial for each in replicas.values() for trial in each]
    if max(len(trial.history) for trial in trials) < 2:
        raise RunError("it takes two epochs")
    figures = []
    for name, title in shown_diagnostics(trials).items():
        figure = go.Figure()
        for index, (label, own) in enumerate(replicas.items()):
            points = mean_curve(own, name)
            if len(points) < 2:
                continue  # plain SGD has no sharpness
            x, y = zip(*points, strict=True)
            figure.add_scatter(
                x=x, y=y, mode="lines", name=_text(label), line={"color": _COLOURS[index % len(_COLOURS)]}
            )
        if figure.data:
            figures.append(figure.update_xaxes(title="epoch", **whole_numbers(figure)).update_yaxes(title=title))
    return figures


def completed(study: Study, label: str) -> list[Trial]:
    """The replicas of a candidate."""
    return [t for t in study if t.state is TrialState.COMPLETED and t.config.get(CANDIDATE) == label]


def mean_curve(trials: Sequence[Trial], metric: str) -> list[tuple[float, float]]:
    """(epoch, mean over the trials) of every epoch in which all trials measured it."""
    found: dict[float, list[float]] = {}
    for trial in trials:
        for record in trial.history:
            if metric in record:
                found.setdefault(record["epoch"], []).append(record[metric])
    return [(epoch, fmean(values)) for epoch, values in sorted(found.items()) if len(values) == len(trials)]


def intervals_drawn(confirmation: Confirmation) -> Figure:
    """`intervals` by matplotlib, for papers. Raises as `measured` does."""
    from matplotlib.figure import Figure

    rows = measured(confirmation)
    figure = Figure(figsize=(6.0, 0.9 + 0.45 * len(rows)))
    axes = figure.add_subplot()
    for index, row in enumerate(rows):
        colour, seeds = _COLOURS[index % len(_COLOURS)], list(row.values.values())
        assert row.estimate is not None
        axes.plot(seeds, [index + 0.2] * len(seeds), ".", color=colour, alpha=0.6, markersize=6)
        half = row.estimate.half_width or 0.0
        axes.errorbar(row.estimate.mean, index - 0.1, xerr=half, fmt="D", color=colour, capsize=3, markersize=5)
    labels = [row.label + (" *" if row.label == confirmation.baseline else "") for row in rows]
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.4, -0.6)  # the best on top
    axes.set_xlabel(f"{confirmation.metric} (95% interval)")
    axes.grid(True, axis="x", color="0.9")
    axes.set_axisbelow(True)
    return figure


def _text(label: str) -> str:
    """Plotly reads labels as HTML, and `%{…}` in a template as a value."""
    return html.escape(printable(label), quote=False).replace("%{", "% {")
