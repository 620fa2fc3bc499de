"""What only a search over SAM has: the response to rho, and its diagnostics over training."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from samtune.errors import RunError
from samtune.formatting import format_config, format_value
from samtune.report.style import BLUE, GREY, ORANGE, SCALE, whole_numbers
from samtune.report.thinning import MOST_POINTS, thinned
from samtune.study import Scalar, Study, Trial, TrialState

if TYPE_CHECKING:
    import plotly.graph_objects as go

BINS_PER_DECADE = 3

DIAGNOSTICS = {
    "val_accuracy": "validation accuracy",
    "train_loss": "training loss",
    "sharpness": "sharpness",
    "gradient_norm": "gradient norm",
    "relative_perturbation": "perturbation, of the weights",
    "gradient_cosine": "gradient cosine",
    "perturbation_cosine": "perturbation cosine",
    "lost_perturbation": "lost perturbation",
    "lambda_max": "largest eigenvalue of the Hessian",
    "lambda_ratio": "largest over fifth eigenvalue",
    "hessian_frobenius": "Frobenius norm of the Hessian",
    "m_sharpness": "m-sharpness",
}


def response_points(study: Study) -> list[tuple[float, float, Trial]]:
    """(rho, objective, trial) of the completed trials that have a rho.

    Raises:
        RunError: there are fewer than two different rho among them.
    """
    points = [
        (rho, value, trial)
        for trial in study
        if trial.state is TrialState.COMPLETED
        and (rho := number(trial, "method.rho"))
        and (value := study.objective.value(trial)) is not None
    ]
    if len({rho for rho, _, _ in points}) < 2:
        raise RunError("it takes two completed trials with different rho")
    return points


def envelope(study: Study) -> list[tuple[float, float]]:
    """Of each part of a decade of rho the best point: what can be reached there when the rest is tuned."""
    points = [(rho, value) for rho, value, _ in response_points(study)]
    return _best_per_bin(points, study.objective.mode == "max")


def response(study: Study) -> go.Figure:
    """The objective over rho, coloured by the learning rate, with the envelope. Raises as `response_points` does."""
    import plotly.graph_objects as go

    sign = -1.0 if study.objective.mode == "max" else 1.0
    points = thinned(response_points(study), MOST_POINTS, lambda point: sign * point[1])
    best_points = envelope(study)
    figure = go.Figure()
    figure.add_scatter(
        x=[rho for rho, _ in best_points],
        y=[value for _, value in best_points],
        mode="lines",
        line={"color": GREY, "width": 2, "dash": "dot"},
        name="best of each part",
        hoverinfo="skip",
    )
    methods = list(dict.fromkeys(str(trial.params.get("method.name")) for _, _, trial in points))
    rates = [math.log10(number(trial, "training.lr") or 1.0) for _, _, trial in points]
    for method, symbol in zip(methods, _symbols(len(methods)), strict=True):
        own = [(rho, value, trial) for rho, value, trial in points if trial.params.get("method.name") == method]
        figure.add_scatter(
            x=[rho for rho, _, _ in own],
            y=[value for _, value, _ in own],
            mode="markers",
            showlegend=False,
            text=[f"trial {trial.number}<br>{format_config(trial.config)}" for _, _, trial in own],
            hovertemplate="%{text}<br>%{y:.4f}<extra></extra>",
            marker={
                "size": 10,
                "symbol": symbol,
                "line": {"width": 1, "color": "rgba(127,127,127,0.6)"},
                "color": [math.log10(number(trial, "training.lr") or 1.0) for _, _, trial in own],
                "coloraxis": "coloraxis",
            },
        )
        # In the legend the symbol counts, not the colour of the first point.
        figure.add_scatter(x=[None], y=[None], mode="markers", name=method, marker={"symbol": symbol, "color": GREY})
    low, high = min(rates), max(rates)
    ticks = [low, (low + high) / 2, high] if high > low else [low]
    figure.update_layout(
        coloraxis={
            "colorscale": SCALE,
            "colorbar": {"title": "lr", "tickvals": ticks, "ticktext": [format_value(10**t) for t in ticks]},
        }
    )
    plain = [study.objective.value(t) for t in study if "method.rho" not in t.params and t.state.value == "completed"]
    values = [value for value in plain if value is not None]
    if values:
        best = max(values) if study.objective.mode == "max" else min(values)
        figure.add_hline(
            y=best, line={"color": ORANGE, "width": 1.5, "dash": "dash"}, annotation_text="best without rho"
        )
    return figure.update_xaxes(type="log", title="rho").update_yaxes(title=study.objective.metric)


def diagnostics(study: Study) -> list[go.Figure]:
    """One figure per diagnostic over the epochs: the best and the worst completed trial.

    Raises:
        RunError: there are no two completed trials to compare, or they have one epoch: a point, and no curve.
    """
    import plotly.graph_objects as go

    pair = best_and_worst(study)
    if max(len(trial.history) for trial in pair) < 2:
        raise RunError("it takes two epochs")
    figures = []
    for name, title in shown_diagnostics(pair).items():
        figure = go.Figure()
        for trial, label, colour in zip(pair, ("best", "worst"), (BLUE, ORANGE), strict=True):
            figure.add_scatter(
                x=[record["epoch"] for record in trial.history],
                y=[record.get(name) for record in trial.history],
                mode="lines+markers" if len(trial.history) < 30 else "lines",
                name=f"{label} (trial {trial.number})",
                line={"color": colour},
                marker={"size": 5},
            )
        figures.append(figure.update_xaxes(title="epoch", **whole_numbers(figure)).update_yaxes(title=title))
    return figures


def shown_diagnostics(trials: Iterable[Trial]) -> dict[str, str]:
    """Metric -> title of those that any of the trials has, and not as nothing but zeros."""
    trials = list(trials)
    return {n: title for n, title in DIAGNOSTICS.items() if any(r.get(n) for t in trials for r in t.history)}


def best_and_worst(study: Study) -> tuple[Trial, Trial]:
    """The ends of the leaderboard.

    Raises:
        RunError: there are no two completed trials.
    """
    ended = [t for t in study.ranked() if t.state is TrialState.COMPLETED and study.objective.value(t) is not None]
    if len(ended) < 2:
        raise RunError("it takes two completed trials")
    return ended[0], ended[-1]


def _best_per_bin(points: list[tuple[float, float]], maximise: bool) -> list[tuple[float, float]]:
    """Of each part of a decade the best point, in the order of the first coordinate."""
    best: dict[int, tuple[float, float]] = {}
    for x, y in points:
        part = math.floor(math.log10(x) * BINS_PER_DECADE)
        if part not in best or (y > best[part][1]) == maximise:
            best[part] = (x, y)
    return [best[part] for part in sorted(best)]


def number(trial: Trial, key: str) -> float | None:
    """The value of a key; None where it is absent or no number."""
    value: Scalar = trial.params.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _symbols(count: int) -> list[str]:
    known = ["circle", "diamond", "square", "triangle-up", "cross", "star", "hexagon", "x"]
    return [known[index % len(known)] for index in range(count)]
