"""What each searched key decides, with the error of it: as a plotly figure and as one for papers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from samtune.errors import RunError
from samtune.experiments.importances import Importance
from samtune.experiments.results import Results
from samtune.formatting import short_names
from samtune.report.enough import check_enough
from samtune.report.style import BLUE, GREY

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from matplotlib.figure import Figure


def importances(results: Results) -> go.Figure:
    """A bar per key, the most important on top.

    Raises:
        RunError: too few trials were completed, or they do not differ.
    """
    import plotly.graph_objects as go

    found = _ascending(results)
    values, errors = [each.value for each in found.values()], [each.standard_error for each in found.values()]
    bars = go.Bar(
        x=values,
        y=list(found),
        orientation="h",
        error_x={"type": "data", "array": errors, "arrayminus": _down(found), "color": GREY, "thickness": 1.5},
        hovertemplate="%{y}: %{x:.2f} ± %{error_x.array:.2f}<extra></extra>",
    )
    ends = [value + error for value, error in zip(values, errors, strict=True)]
    figure = go.Figure(bars)
    figure.add_scatter(  # beside the error bars, which a bar's own text would lie on
        x=ends,
        y=list(found),
        mode="text",
        text=[f" {each.value:.2f} ± {each.standard_error:.2f}" for each in found.values()],
        textposition="middle right",
        cliponaxis=False,
        hoverinfo="skip",
        showlegend=False,
    )
    figure.update_xaxes(title="importance", range=[0, 1.25 * max(ends)])
    return figure.update_yaxes(ticklabelstandoff=6)


def importances_drawn(results: Results) -> Figure:
    """The same by matplotlib. Raises as `importances` does."""
    from matplotlib.figure import Figure

    found = _ascending(results)
    figure = Figure(figsize=(5.0, 0.9 + 0.35 * len(found)))
    axes = figure.add_subplot()
    ups = [each.standard_error for each in found.values()]
    axes.barh(list(found), [each.value for each in found.values()], color=BLUE)
    axes.errorbar(
        [each.value for each in found.values()], range(len(found)), xerr=[_down(found), ups], fmt="none", ecolor=GREY
    )
    axes.set(xlabel="importance (± standard error)")
    axes.grid(True, axis="x", color="0.9")
    axes.set_axisbelow(True)
    return figure


def _ascending(results: Results) -> dict[str, Importance]:
    """By short name, the least first."""
    check_enough(results.study)
    found = results.estimated_importances()
    if not found:
        raise RunError("nothing was searched")
    names = short_names(found)
    return {names[key]: found[key] for key in sorted(found, key=lambda key: found[key].value)}


def _down(found: dict[str, Importance]) -> list[float]:
    """Importances are not negative."""
    return [min(each.value, each.standard_error) for each in found.values()]
