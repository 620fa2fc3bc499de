"""How much the loss rises within a ball around the weights: m-sharpness, plain and adaptive."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from samtune.errors import UsageError
from samtune.sam import tree, vectors
from samtune.sharpness.estimate import Estimate, Progress, is_enough
from samtune.sharpness.loss import FORWARD, Batches, LossFn, MeanLoss


def m_sharpness(
    model: nn.Module,
    loss_fn: LossFn,
    batches: Batches,
    *,
    m: int | None = None,
    rho: float = 0.05,
    steps: int = 1,
    p: float = 2.0,
    target_error: float | None = None,
    progress: Progress | None = None,
    group: dist.ProcessGroup | None = None,
) -> Estimate:
    """The mean over groups S of m examples of max over ‖ε‖_p <= rho of L_S(w + ε) - L_S(w) (SAM paper, section 4.1).

    The maximum is that of the points which `steps` steps of projected gradient ascent reach, so a lower bound:
    ε ← Π(ε + rho·d), d the dual-norm direction of ∇L_S(w + ε). One step is SAM's ε̂.

    Args:
        m: successive examples that share a perturbation, over the borders of batches; what is left at the end of a
            rank's share is not used, so m must divide the shares for the same answer on any number of ranks. None: all
            examples of all ranks are one group.
        rho: radius of the ball.
        steps: of the ascent. Each costs a pass, and a forward comes on top.
        p: norm of the ball.
        target_error: ends when the standard error over the groups is this small, at 8 groups the earliest.
        progress: called with the answer so far after each group; True ends it.

    Raises:
        UsageError: a rank's share has fewer than m examples, or rho or steps make no sense.
    """
    return _sharpness(
        MeanLoss(model, loss_fn, batches, group=group),
        m=m,
        rho=rho,
        steps=steps,
        p=p,
        eta=None,
        target_error=target_error,
        progress=progress,
    )


def adaptive_sharpness(
    model: nn.Module,
    loss_fn: LossFn,
    batches: Batches,
    *,
    m: int | None = None,
    rho: float = 0.5,
    steps: int = 1,
    p: float = 2.0,
    eta: float = 0.0,
    target_error: float | None = None,
    progress: Progress | None = None,
    group: dist.ProcessGroup | None = None,
) -> Estimate:
    """ASAM's sharpness (Kwon et al. 2021): the ball is ‖ε / (|w| + eta)‖_p <= rho, elementwise.

    With eta = 0 it does not change when the layers of a ReLU network are rescaled without changing the function. The
    other arguments are those of `m_sharpness`.
    """
    return _sharpness(
        MeanLoss(model, loss_fn, batches, group=group),
        m=m,
        rho=rho,
        steps=steps,
        p=p,
        eta=eta,
        target_error=target_error,
        progress=progress,
    )


def _sharpness(
    mean_loss: MeanLoss,
    *,
    m: int | None,
    rho: float,
    steps: int,
    p: float,
    eta: float | None,
    target_error: float | None,
    progress: Progress | None,
) -> Estimate:
    if rho < 0 or steps < 1 or p < 1 or (m is not None and m < 1):
        raise UsageError(f"rho must be >= 0, steps, p and m >= 1 (rho is {rho}, steps {steps}, p {p}, m {m})")
    with mean_loss.fixed():
        scale = None if eta is None else mean_loss.flatten(mean_loss.parameters).detach().abs() + eta
        if m is None:
            base, top = ascend(mean_loss, rho=rho, steps=steps, p=p, scale=scale)
            return Estimate(top - base, math.nan, mean_loss.passes, 1)
        return _mean_over_groups(mean_loss, m, rho, steps, p, scale, target_error, progress)


def _mean_over_groups(
    mean_loss: MeanLoss,
    m: int,
    rho: float,
    steps: int,
    p: float,
    scale: Tensor | None,
    target_error: float | None,
    progress: Progress | None,
) -> Estimate:
    """The groups of each rank in turn; after each round the ranks share what they have found."""
    device = mean_loss.device
    sums = torch.zeros(3, dtype=torch.float64, device=device)  # groups, values, squares, over all ranks
    groups = _groups(mean_loss.batches, m)
    while True:
        found = torch.zeros(3, dtype=torch.float64, device=device)
        if (pieces := next(groups, None)) is not None:
            base, top = ascend(mean_loss.over(pieces), rho=rho, steps=steps, p=p, scale=scale)
            rise = top - base
            found += torch.tensor([1.0, rise, rise * rise], dtype=torch.float64, device=device)
        mean_loss.sum_over_ranks(found)
        if found[0] == 0:
            break
        sums += found
        estimate = _from_sums(*sums.tolist(), passes=(steps + FORWARD) * float(sums[0]) * m / mean_loss.num_examples)
        if is_enough(estimate, target_error, progress):
            break
    if sums[0] == 0:
        raise UsageError(f"m must not exceed the examples of a rank's share (m is {m})")
    return estimate


def _from_sums(count: float, total: float, squares: float, *, passes: float) -> Estimate:
    mean = total / count
    variance = max(squares - count * mean * mean, 0.0) / (count - 1) if count > 1 else math.nan
    return Estimate(mean, math.sqrt(variance / count) if count > 1 else math.nan, passes, int(count))


def _groups(batches: Batches, m: int) -> Iterator[list[tuple[Any, Any]]]:
    """Groups of m successive examples, each as the pieces of batches that it consists of."""
    pieces: list[tuple[Any, Any]] = []
    missing = m
    for batch in batches:
        start, size = 0, tree.num_examples(batch)
        while start < size:
            stop = min(start + missing, size)
            pieces.append(tree.take(batch, slice(start, stop)))
            missing -= stop - start
            start = stop
            if missing == 0:
                yield pieces
                pieces, missing = [], m


def ascend(
    mean_loss: MeanLoss,
    *,
    rho: float,
    steps: int,
    p: float = 2.0,
    scale: Tensor | None = None,
    visit: Callable[[], object] | None = None,
) -> tuple[float, float]:
    """L(w), and the largest loss that projected gradient ascent finds in the ball; the weights are w again.

    Args:
        scale: T; the ball is ‖ε / T‖_p <= rho. None: 1.
        visit: called at each point that the ascent reaches, with the weights there.
    """
    step = torch.zeros(mean_loss.num_weights, dtype=mean_loss.dtype, device=mean_loss.device)  # ε / T
    scaled: Callable[[Tensor], Tensor] = (lambda v: v) if scale is None else (lambda v: scale * v)
    losses: list[float] = []
    with mean_loss.weights.held():
        for index in range(steps):
            loss, gradient = mean_loss.value_and_gradient()
            losses.append(loss)
            direction = scaled(gradient)  # the gradient by ε / T
            vectors.dual_norm_([direction], rho, p)
            step += direction
            if index:
                vectors.project_([step], rho, p)
            mean_loss.weights.perturb(mean_loss.unflatten(scaled(step)))
            if visit is not None:
                visit()
        losses.append(mean_loss.value())
    return losses[0], max(losses[1:])
