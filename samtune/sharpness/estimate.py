"""What the measures answer, and when an estimate from random samples is good enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MIN_SAMPLES = 8  # with fewer, a standard error is itself too uncertain to stop by


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and how well it is known."""

    value: float
    standard_error: float
    """One standard deviation of `value` over its random samples; NaN with fewer than two.

    For eigenvalues, which are not sampled, the norm of the residual ‖Hv - λv‖: an eigenvalue lies within it."""
    passes: float
    """What it cost: 1 is a forward and backward of all examples. A forward alone counts 1/3; k Hessian-vector
    products that share a forward and backward, 1 + 2k."""
    num_samples: int
    """Probes, directions or groups of examples that it is a mean of; steps of Lanczos."""


Progress = Callable[[Estimate], object]
"""Told of the answer so far. Returning True ends the estimation with that answer; with a process group, every rank is
called with the same values and must return the same."""


def mean_estimate(samples: Sequence[float], passes: float) -> Estimate:
    """The mean of independent samples."""
    n = len(samples)
    mean = math.fsum(samples) / n if n else math.nan
    variance = math.fsum((sample - mean) ** 2 for sample in samples) / (n - 1) if n > 1 else math.nan
    return Estimate(mean, math.sqrt(variance / n) if n > 1 else math.nan, passes, n)


def is_enough(estimate: Estimate, target_error: float | None, progress: Progress | None) -> bool:
    """Reports the answer so far; whether to stop with it."""
    told_to_stop = progress is not None and progress(estimate) is True
    reached = target_error is not None and estimate.num_samples >= MIN_SAMPLES
    return told_to_stop or (reached and estimate.standard_error <= (target_error or 0.0))
