"""How figures look: on the page, whose script sets the colours of light and dark, and nowhere boxed in."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from samtune.formatting import format_number

if TYPE_CHECKING:
    import plotly.graph_objects as go

BLUE, ORANGE, GREEN, RED, GREY, PURPLE = "#3b7dd8", "#e07b39", "#3a9d6e", "#d1495b", "#8a8f98", "#8e6cc9"
"""Told apart by the colour-blind, and readable on white and on near-black."""

STATE_COLOURS = {"completed": BLUE, "pruned": ORANGE, "failed": RED, "interrupted": PURPLE, "running": GREEN}

SCALE = [[0.0, "#9db4cc"], [0.35, "#5b8fd0"], [0.6, "#7b5fc0"], [0.8, "#c23b7a"], [1.0, "#e0632b"]]
"""From worse to better. Optuna's own ends in white or in navy, one of which every page has for its ground."""


def colour_at(share: float) -> str:
    """The colour of SCALE at 0 to 1."""
    from plotly.colors import sample_colorscale

    return str(sample_colorscale(SCALE, [min(max(share, 0.0), 1.0)])[0])


def whole_numbers(figure: go.Figure) -> dict[str, Any]:
    """For an x axis of whole numbers: no tick lies between two of them."""
    values = [value for trace in figure.data for value in trace.x]
    return {"tickformat": "d", **({"dtick": 1} if max(values) - min(values) <= 10 else {})}


def dress(figure: go.Figure) -> go.Figure:
    """Takes off what is not for a page: titles (the page has its own), grey boxes, wide margins, colours of text."""
    import plotly.graph_objects as go

    clear: dict[str, Any] = {"paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)"}
    figure.update_layout(
        template=go.layout.Template(),
        title=None,
        margin={"l": 64, "r": 16, "t": 28, "b": 48},
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "xanchor": "left"},
        colorway=[BLUE, ORANGE, GREEN, RED, PURPLE, GREY],
        font={"size": 13},
        **clear,
    )
    figure.update_xaxes(automargin=True, zeroline=False, ticklabelstandoff=4)
    figure.update_yaxes(automargin=True, zeroline=False, ticklabelstandoff=4, title_standoff=14)
    figure.update_annotations(font={"color": None})
    figure.for_each_shape(lambda shape: shape.update(line_color=GREY) if shape.type == "line" else None)
    for trace in figure.data:
        if trace.type == "contour":
            trace.update(colorscale=SCALE, reversescale=False)
        elif trace.type == "scatter" and trace.marker.colorscale is not None:
            trace.update(marker={"colorscale": SCALE, "reversescale": False, "line": {"width": 0}})
    for name, axis in _log_axes(figure):
        _label_log_axis(axis, [value for trace in figure.data for value in _numbers(getattr(trace, name))])
    return figure


def _log_axes(figure: go.Figure) -> Iterable[tuple[str, Any]]:
    """The logarithmic axes and the name of the data on them."""
    for name in ("x", "y"):
        axis = getattr(figure.layout, f"{name}axis")
        if axis.type == "log":
            yield name, axis


def _numbers(values: Any) -> list[float]:
    return [float(v) for v in values if isinstance(v, int | float) and v > 0] if values is not None else []


def _label_log_axis(axis: Any, values: list[float]) -> None:
    """Ticks at 1, 2 and 5 of each decade (1 alone over many), written as samtune writes numbers."""
    if not values:
        return
    ticks = log_ticks(min(values), max(values))
    axis.update(tickvals=ticks, ticktext=[format_number(tick) for tick in ticks], tickangle=0)


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers from about `low` to about `high`, both > 0."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if math.log10(high / low) <= 2 else (1,)
    ticks = [float(f"{step}e{decade}") for decade in decades for step in steps]
    return [tick for tick in ticks if low / 1.3 <= tick <= high * 1.3]
