"""The loss around the weights, along filter-normalised random directions (Li et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from samtune.sam import vectors
from samtune.sharpness.loss import Batches, LossFn, MeanLoss
from samtune.sharpness.probes import probe_generator


@dataclass(frozen=True, slots=True)
class Curve:
    """L(w + a·x) over a."""

    positions: tuple[float, ...]
    losses: tuple[float, ...]
    passes: float


@dataclass(frozen=True, slots=True)
class Surface:
    """L(w + a·x + b·y); `losses[i][j]` is that at a = positions[i], b = positions[j]."""

    positions: tuple[float, ...]
    losses: tuple[tuple[float, ...], ...]
    passes: float


def filter_normalised(parameters: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """A random direction in which each filter, or row of a matrix, is as long as that of the weights.

    Biases and the scales and shifts of normalisation layers stay: their entry is 0.
    """
    direction = vectors.normal_like(parameters, generator)
    for part, parameter in zip(direction, parameters, strict=True):
        if parameter.ndim < 2:
            part.zero_()
            continue
        rows, weights = part.flatten(1), parameter.detach().flatten(1)
        length = rows.norm(dim=1).clamp_min(torch.finfo(rows.dtype).tiny)
        rows *= (weights.norm(dim=1) / length)[:, None]
    return direction


def loss_along(
    model: nn.Module,
    loss_fn: LossFn,
    batches: Batches,
    *,
    radius: float = 0.5,
    num_points: int = 25,
    seed: int = 0,
    progress: Callable[[int, int], object] | None = None,
    group: dist.ProcessGroup | None = None,
) -> Curve:
    """The loss on a line through w. Each point costs a forward.

    Args:
        radius: the line goes from -radius to radius, in lengths of the filters.
        num_points: on the line; an odd number holds w itself.
        seed: of the direction; the same for all models of one architecture, up to the lengths.
        progress: called with the number of points done and the total.
    """
    mean_loss = MeanLoss(model, loss_fn, batches, group=group)
    positions = _positions(radius, num_points)
    losses = _losses(mean_loss, [(a,) for a in positions], seed, progress)
    return Curve(positions, tuple(losses), mean_loss.passes)


def loss_surface(
    model: nn.Module,
    loss_fn: LossFn,
    batches: Batches,
    *,
    radius: float = 0.5,
    num_points: int = 19,
    seed: int = 0,
    progress: Callable[[int, int], object] | None = None,
    group: dist.ProcessGroup | None = None,
) -> Surface:
    """The loss on a plane through w, num_points x num_points. Arguments as in `loss_along`."""
    mean_loss = MeanLoss(model, loss_fn, batches, group=group)
    positions = _positions(radius, num_points)
    losses = _losses(mean_loss, [(a, b) for a in positions for b in positions], seed, progress)
    rows = tuple(tuple(losses[i : i + num_points]) for i in range(0, len(losses), num_points))
    return Surface(positions, rows, mean_loss.passes)


def _positions(radius: float, num_points: int) -> tuple[float, ...]:
    return tuple(torch.linspace(-radius, radius, num_points, dtype=torch.float64).tolist())


def _losses(
    mean_loss: MeanLoss,
    points: Sequence[tuple[float, ...]],
    seed: int,
    progress: Callable[[int, int], object] | None,
) -> list[float]:
    generator = probe_generator(mean_loss, seed)
    directions = [mean_loss.flatten(filter_normalised(mean_loss.parameters, generator)) for _ in range(len(points[0]))]
    losses: list[float] = []
    with mean_loss.fixed():
        for point in points:
            shift = sum((a * x for a, x in zip(point, directions, strict=True)), torch.zeros_like(directions[0]))
            mean_loss.weights.perturb(mean_loss.unflatten(shift))
            losses.append(mean_loss.value())
            if progress is not None:
                progress(len(losses), len(points))
    return losses
