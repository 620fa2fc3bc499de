"""The trials of a search in their order, and the best so far."""

from __future__ import annotations

from typing import TYPE_CHECKING

from samtune.errors import RunError
from samtune.report.style import BLUE, ORANGE, whole_numbers
from samtune.report.thinning import MOST_POINTS, thinned
from samtune.study import Study, TrialState

if TYPE_CHECKING:
    import plotly.graph_objects as go


def history(study: Study) -> go.Figure:
    """The (first) objective of every completed trial over its number, and the steps of the best so far.

    Raises:
        RunError: fewer than two trials were completed.
    """
    import plotly.graph_objects as go

    objective = study.objective
    sign = -1.0 if objective.mode == "max" else 1.0
    points = [
        (trial.number, value)
        for trial in sorted(study, key=lambda trial: trial.number)
        if trial.state is TrialState.COMPLETED and (value := objective.value(trial)) is not None
    ]
    if len(points) < 2:
        raise RunError("it takes two completed trials")
    steps = points[:1]
    for number, value in points[1:]:
        if sign * value < sign * steps[-1][1]:
            steps.append((number, value))
    steps.append((points[-1][0], steps[-1][1]))
    shown = thinned(points, MOST_POINTS, lambda point: sign * point[1])
    figure = go.Figure()
    figure.add_scatter(
        x=[number for number, _ in shown],
        y=[value for _, value in shown],
        mode="markers",
        name=objective.metric,
        marker={"color": BLUE},
        hovertemplate="trial %{x}<br>%{y:.4f}<extra></extra>",
    )
    figure.add_scatter(
        x=[number for number, _ in steps],
        y=[value for _, value in steps],
        mode="lines",
        name="best so far",
        line={"color": ORANGE, "shape": "hv"},
        hoverinfo="skip",
    )
    return figure.update_xaxes(title="trial", **whole_numbers(figure)).update_yaxes(title=objective.metric)
