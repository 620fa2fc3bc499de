"""The picture of examples 1 and 2 of the universal paper (section 3.2): what the trace of a Hessian does not see.

`python -m samtune.experiments.sharpness.toy_examples samtune/docs/toy-examples.svg` writes it into the documentation.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#3b7dd8", "#e07b39", "#8a8f98"


def saddle(w: Tensor) -> Tensor:
    """For example 1: w₀³ - 3·w₀·w₁², harmonic, so that the trace of its Hessian is 0 everywhere.

    The example's own formula is missing in the copy of the paper that was read; this one has its property.
    """
    return w[0] ** 3 - 3 * w[0] * w[1] ** 2


def product(w: Tensor) -> Tensor:
    """For example 2: (w₀·w₁ - 1)², the same for (c·w₀, w₁/c); its minima are the curve w₀·w₁ = 1."""
    return (w[0] * w[1] - 1) ** 2


def hessians(loss: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """The Hessian of a loss at each point.

    Args:
        loss: of the coordinates (2, n), each point by itself: (n).
        points: (n, 2).

    Returns:
        (n, 2, 2).
    """
    at = points.clone().requires_grad_()
    (gradients,) = torch.autograd.grad(loss(at.T).sum(), at, create_graph=True)
    rows = [torch.autograd.grad(gradients[:, i].sum(), at, retain_graph=True)[0] for i in (0, 1)]
    return torch.stack(rows, dim=1)


def draw() -> Figure:
    """Both examples: a saddle that the trace calls flat everywhere, and minima that differ in their trace alone."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 3.4), layout="constrained")
    first, second, third = figure.subplots(1, 3)
    _draw_saddle(figure, first)
    _draw_minima(second)
    _draw_measures(third)
    return figure


def write(path: Path) -> None:
    """Writes the picture as SVG, byte for byte the same each time."""
    import matplotlib as mpl

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "samtune"}):
        draw().savefig(path, format="svg", metadata={"Date": None})
    path.write_text("\n".join(line.rstrip() for line in path.read_text("utf-8").splitlines()) + "\n", "utf-8")


def _grid(low: float, high: float, count: int = 41) -> tuple[Tensor, Tensor]:
    """The points of a square: its axis (count), and all of them (count², 2), the first coordinate fastest."""
    axis = torch.linspace(low, high, count, dtype=torch.float64)
    second, first = torch.meshgrid(axis, axis, indexing="ij")
    return axis, torch.stack([first.flatten(), second.flatten()], dim=1)


def _draw_saddle(figure: Figure, axes: Axes) -> None:
    axis, points = _grid(-1.0, 1.0)
    shape = (len(axis), len(axis))
    frobenius = hessians(saddle, points).square().sum(dim=(1, 2)).sqrt().reshape(shape)
    shades = axes.contourf(axis.numpy(), axis.numpy(), frobenius.numpy(), levels=8, cmap="Blues")
    losses = saddle(points.T).reshape(shape)
    levels = [-1.0, -0.5, -0.2, -0.05, 0.0, 0.05, 0.2, 0.5, 1.0]
    axes.contour(axis.numpy(), axis.numpy(), losses.numpy(), levels=levels, colors=GREY, linewidths=0.8)
    figure.colorbar(shades, ax=axes, label="Frobenius norm of H")
    _label(axes, "Example 1: tr H = 0 everywhere")


def _draw_minima(axes: Axes) -> None:
    axis, points = _grid(0.1, 4.0)
    losses = product(points.T).reshape(len(axis), len(axis))
    levels = [0.05, 0.5, 2.0, 8.0, 30.0, 100.0]
    axes.contour(axis.numpy(), axis.numpy(), losses.numpy(), levels=levels, colors=GREY, linewidths=0.8)
    scales = torch.linspace(0.25, 4.0, 200)
    axes.plot(scales, 1 / scales, color=ORANGE, linewidth=2, label="minima: w₀w₁ = 1")
    axes.legend(frameon=False, loc="upper right", fontsize=8)
    _label(axes, "Example 2: all minima are alike …")


def _draw_measures(axes: Axes) -> None:
    scales = torch.linspace(0.25, 4.0, 200, dtype=torch.float64)
    found = hessians(product, torch.stack([scales, 1 / scales], dim=1))
    traces = found.diagonal(dim1=1, dim2=2).sum(dim=1)
    axes.plot(scales, traces, color=BLUE, label="trace of H")
    axes.plot(scales, torch.linalg.det(found), color=ORANGE, label="determinant of H")
    axes.set_xscale("log", base=2)
    axes.set_xlabel("w₀ of the minimum (w₀, 1/w₀)")
    axes.set_title("… and the trace tells them apart", loc="left", fontsize=10)
    axes.legend(frameon=False, loc="upper center", fontsize=8)
    _open(axes)


def _label(axes: Axes, title: str) -> None:
    axes.set_xlabel("w₀")
    axes.set_ylabel("w₁")
    axes.set_title(title, loc="left", fontsize=10)
    _open(axes)


def _open(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
