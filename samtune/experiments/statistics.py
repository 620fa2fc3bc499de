"""The statistics of a few replicas."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, stdev

CONFIDENCE = 0.95

# Relative differences below this are float32's rounding.
_EQUAL = 1e-6


@dataclass(frozen=True)
class Estimate:
    """A mean and the half-width of its confidence interval; None where one value alone gives none."""

    mean: float
    half_width: float | None

    @property
    def interval(self) -> tuple[float, float] | None:
        return None if self.half_width is None else (self.mean - self.half_width, self.mean + self.half_width)


@dataclass(frozen=True)
class Comparison:
    """The mean difference of paired values, and the two-sided p-value of Student's paired test (None with one pair)."""

    difference: Estimate
    p_value: float | None


def resolution(values: Iterable[float]) -> float:
    """The smallest step between values that differ; 0 where none do.

    An accuracy on n examples is a multiple of 1/n: replicas that agree to the last digit agree to that, not exactly.
    """
    ordered = sorted(values)
    least = _EQUAL * max(map(abs, ordered), default=0.0)
    return min((above - below for below, above in pairwise(ordered) if above - below > least), default=0.0)


def estimate(values: Sequence[float], step: float = 0.0) -> Estimate:
    """Mean and 95% confidence interval by Student's t: x̄ ± t(0.975, n−1) s/√n.

    Args:
        values: at least one.
        step: what they are multiples of (see `resolution`); s is at least what rounding to it leaves, step/√12.
    """
    if len(values) == 1:
        return Estimate(values[0], None)
    error = _deviation(values, step) / math.sqrt(len(values))
    return Estimate(fmean(values), _half_width(error, len(values) - 1))


def compare_unpaired(values: Sequence[float], others: Sequence[float]) -> Comparison:
    """Welch's test of two samples of two values at least, which need not have the same variance.

    Their deviations are at least what rounding to their resolution leaves, as in `estimate`.
    """
    step = resolution([*values, *others])
    parts = [_deviation(each, step) ** 2 / len(each) for each in (values, others)]
    freedom = [part**2 / (len(each) - 1) for part, each in zip(parts, (values, others), strict=True)]
    degrees = sum(parts) ** 2 / sum(freedom) if sum(freedom) > 0 else 1.0
    return _student(fmean(values) - fmean(others), math.sqrt(sum(parts)), degrees)


def compare(values: Sequence[float], others: Sequence[float], step: float | None = None) -> Comparison:
    """Student's paired test of two samples of one length, pair by pair with the same seed.

    Both values of a pair are rounded to `step`, so the deviation of their differences is at least step/√6 (as in
    `estimate`): three seeds that happen to differ by the same single example prove nothing.

    Args:
        step: None takes the resolution of these values.
    """
    differences = [value - other for value, other in zip(values, others, strict=True)]
    if len(differences) == 1:
        return Comparison(Estimate(differences[0], None), None)
    step = resolution([*values, *others]) if step is None else step
    spread = _deviation(differences, math.sqrt(2) * step) / math.sqrt(len(differences))
    return _student(fmean(differences), spread, len(differences) - 1)


def _deviation(values: Sequence[float], step: float) -> float:
    """The sample's standard deviation, no less than that of a uniform error of one step (Sheppard 1898)."""
    return max(stdev(values), step / math.sqrt(12))


def _student(difference: float, error: float, degrees: float) -> Comparison:
    if error == 0:  # all values are the same
        return Comparison(Estimate(difference, 0.0), 1.0 if difference == 0 else None)
    from scipy.stats import t

    p_value = float(2 * t.sf(abs(difference) / error, degrees))
    return Comparison(Estimate(difference, _half_width(error, degrees)), p_value)


def _half_width(error: float, degrees: float) -> float:
    """Of Student's interval around a value with this standard error."""
    from scipy.stats import t

    return float(t.ppf(0.5 + CONFIDENCE / 2, degrees)) * error
