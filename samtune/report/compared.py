"""The figure of a comparison of studies: a value with its interval per row, seeds as points."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from samtune.report.style import BLUE, GREEN, GREY, ORANGE, PURPLE, RED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from samtune.experiments.comparison import StudyComparison

_RC: Any = {"savefig.dpi": 200, "savefig.bbox": "tight", "axes.spines.top": False, "axes.spines.right": False}
_RC |= {"svg.fonttype": "none"}  # text stays text
_COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, GREY)


def comparison_figure(found: StudyComparison) -> Figure:
    """Every row of the comparison, the best on top; a color for each study."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 0.9 + 0.38 * len(found.rows)))
    axes = figure.add_subplot()
    for index, row in enumerate(found.rows):
        color = _COLOURS[found.studies.index(row.study) % len(_COLOURS)]
        seeds = list(row.values.values())
        axes.plot(seeds, [index + 0.18] * len(seeds), ".", color=color, alpha=0.6, markersize=5)
        axes.errorbar(row.value, index, xerr=row.half_width or 0.0, fmt="o", color=color, capsize=3)
    axes.set_yticks(range(len(found.rows)), [f"{row.study}: {row.label}" for row in found.rows])
    axes.set_ylim(len(found.rows) - 0.4, -0.6)  # the best on top
    axes.set_xlabel(f"{found.metric} (95% interval)")
    axes.grid(True, axis="x", color="0.9")
    axes.set_axisbelow(True)
    return figure


def save_comparison(found: StudyComparison, target: Path) -> None:
    """Writes the figure in the format of the file's name. Raises OSError where it cannot be written."""
    import matplotlib

    with matplotlib.rc_context(_RC):
        comparison_figure(found).savefig(target)
