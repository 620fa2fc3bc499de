"""The statistics of a few replicas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

CONFIDENCE = 0.95


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


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and 95% confidence interval by Student's t: x̄ ± t(0.975, n−1) s/√n.

    Args:
        values: at least one.
    """
    if len(values) == 1:
        return Estimate(values[0], None)
    from scipy.stats import t

    quantile = float(t.ppf(0.5 + CONFIDENCE / 2, len(values) - 1))
    return Estimate(fmean(values), quantile * stdev(values) / math.sqrt(len(values)))


def compare_unpaired(values: Sequence[float], others: Sequence[float]) -> Comparison:
    """Welch's test of two samples of two values at least, which need not have the same variance.

    Samples without any spread give no p-value.
    """
    mean = fmean(values) - fmean(others)
    if stdev(values) == stdev(others) == 0:
        return Comparison(Estimate(mean, 0.0), None)
    from scipy.stats import ttest_ind

    found = ttest_ind(values, others, equal_var=False)
    interval = found.confidence_interval(CONFIDENCE)
    return Comparison(Estimate(mean, float(interval.high - interval.low) / 2), float(found.pvalue))


def compare(values: Sequence[float], others: Sequence[float]) -> Comparison:
    """Student's paired test of two samples of one length, pair by pair with the same seed.

    Differences that are all alike have no spread to judge by: p is 1 when they are 0, else 0.
    """
    differences = [value - other for value, other in zip(values, others, strict=True)]
    difference = estimate(differences)
    if difference.half_width is None:
        return Comparison(difference, None)
    spread = stdev(differences) / math.sqrt(len(differences))
    if spread < 1e-12:
        return Comparison(difference, 1.0 if abs(difference.mean) < 1e-12 else 0.0)
    from scipy.stats import t

    return Comparison(difference, float(2 * t.sf(abs(difference.mean) / spread, len(differences) - 1)))
