"""Pictures of what was measured: several networks in one figure, on the same axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from samtune.experiments.sharpness.measures import Measured
from samtune.formatting import format_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#3b7dd8", "#e07b39", "#3a9d6e", "#d1495b", "#8e6cc9", "#8a8f98")


def write_plots(found: Sequence[Measured], folder: Path, suffix: str = "png") -> list[Path]:
    """Writes a figure per kind that was measured.

    Returns:
        The files.
    """
    figures = {
        "spectrum": spectrum([each for each in found if each.spectrum]),
        "loss_line": line([each for each in found if each.line]),
        "loss_surface": surface([each for each in found if each.surface]),
    }
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, figure in figures.items():
        if figure is not None:
            figure.savefig(folder / f"{name}.{suffix}", dpi=150)
            files.append(folder / f"{name}.{suffix}")
    return files


def spectrum(found: Sequence[Measured]) -> Figure | None:
    """The density of the Hessian's eigenvalues, panels with one axis, as in the SAM paper's figure 3."""
    if not found:
        return None
    densities = [each.spectrum for each in found if each.spectrum]
    low = min(float(density.nodes.min()) for density in densities)
    high = max(float(density.nodes.max()) for density in densities)
    margin = 0.05 * (high - low)
    grid = torch.linspace(low - margin, high + margin, 1500, dtype=torch.float64)
    width = 0.004 * (high - low)
    figure = _figure(7.0, 0.9 + 1.7 * len(found))
    axes = figure.subplots(len(found), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    peaks: list[float] = []
    for axis, each, density, colour in zip(axes, found, densities, COLOURS * len(found), strict=False):
        values, _ = density.at(grid, width)
        axis.fill_between(grid.numpy(), values.numpy(), 1e-9, color=colour, alpha=0.35, linewidth=0)
        axis.plot(grid.numpy(), values.numpy(), color=colour, linewidth=1.2)
        axis.set_yscale("log")
        peaks.append(float(values.max()))
        axis.set_ylabel("density")
        axis.set_title(_title(each), loc="left", fontsize=10)
        open_axis(axis)
    single = 1 / (max(density.num_weights for density in densities) * width * math.sqrt(2 * math.pi))
    axes[0].set_ylim(single / 100, 3 * max(peaks))  # a single eigenvalue's bump stands out
    axes[-1].set_xlabel("eigenvalue of the Hessian")
    return figure


def line(found: Sequence[Measured]) -> Figure | None:
    """The loss along a filter-normalised random direction."""
    if not found:
        return None
    figure = _figure(6.0, 3.8)
    axis = figure.subplots()
    for each, colour in zip(found, COLOURS * len(found), strict=False):
        if each.line:
            axis.plot(
                each.line.positions, each.line.losses, color=colour, marker="o", markersize=3, label=each.subject.name
            )
    axis.set_xlabel("distance along the direction, in lengths of the filters")
    axis.set_ylabel("loss")
    axis.legend(frameon=False)
    open_axis(axis)
    return figure


def surface(found: Sequence[Measured]) -> Figure | None:
    """The loss on the plane of two filter-normalised random directions: panels with the same levels."""
    if not found:
        return None
    import numpy as np

    grids = [np.array(each.surface.losses) for each in found if each.surface]
    low, high = max(min(grid.min() for grid in grids), 1e-6), max(grid.max() for grid in grids)
    levels = np.geomspace(low * 0.999, high * 1.001, 16)
    figure = _figure(0.9 + 3.4 * len(found), 3.7)
    axes = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for axis, each, grid in zip(axes, found, grids, strict=True):
        positions = each.surface.positions if each.surface else ()
        filled = axis.contourf(positions, positions, grid.T, levels=levels, cmap="viridis", norm="log")
        axis.contour(positions, positions, grid.T, levels=levels, colors="white", linewidths=0.4, alpha=0.6)
        axis.plot(0, 0, marker="+", color="white", markersize=9)
        axis.set_aspect("equal")
        axis.set_title(_title(each), fontsize=10)
        axis.set_xlabel("first direction")
    axes[0].set_ylabel("second direction")
    ticks = levels[::3]
    bar = figure.colorbar(filled, ax=list(axes), ticks=ticks, label="loss", shrink=0.85)
    bar.ax.set_yticklabels([format_number(float(tick)) for tick in ticks])
    bar.ax.minorticks_off()
    return figure


def _title(each: Measured) -> str:
    top = each.numbers.get("lambda_max")
    return each.subject.name + (f": largest eigenvalue {format_number(top.value)}" if top else "")


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def open_axis(axis: object) -> None:
    """Takes away the upper and the right line of the box."""
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)  # type: ignore[attr-defined]
