"""A study as one HTML page that opens anywhere, and its figures for papers.

Knows studies, Optuna's plots, plotly and matplotlib; must not import what the terminal and the commands are made of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from samtune.lazy import lazy_exports

if TYPE_CHECKING:
    from samtune.report.compared import save_comparison
    from samtune.report.page import render
    from samtune.report.plots import all_plots, save_plot

__all__ = [
    "all_plots",
    "render",
    "save_comparison",
    "save_plot",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "render": ".page",
        "save_comparison": ".compared",
        "all_plots": ".plots",
        "save_plot": ".plots",
    },
)
