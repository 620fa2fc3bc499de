"""The statistics of replicas, against hand-worked numbers and scipy."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from samtune.experiments.statistics import compare, estimate


def test_the_interval_of_five_known_values() -> None:
    # mean 3, s = sqrt(10/4) = 1.5811, s/sqrt(5) = 0.70711, t(0.975, 4) = 2.776445: half-width 1.963243
    found = estimate([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found.mean == 3.0
    assert found.half_width == pytest.approx(1.963243, abs=1e-6)
    assert found.interval == pytest.approx(stats.t.interval(0.95, 4, loc=3.0, scale=stats.sem([1, 2, 3, 4, 5])))


def test_one_value_has_no_interval() -> None:
    found = estimate([0.97])
    assert (found.mean, found.half_width, found.interval) == (0.97, None, None)


def test_the_paired_test_is_scipys() -> None:
    sam, sgd = [0.961, 0.957, 0.964, 0.952, 0.960], [0.955, 0.953, 0.961, 0.953, 0.951]
    found, expected = compare(sam, sgd), stats.ttest_rel(sam, sgd)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    interval = expected.confidence_interval(0.95)
    assert found.difference.interval == pytest.approx((interval.low, interval.high), rel=1e-9)
    # Pairs matter: the same values in another order are another test.
    assert compare(sam, sgd[::-1]).p_value != pytest.approx(expected.pvalue, rel=1e-3)


@pytest.mark.parametrize(("shift", "p_value"), [(0.0, 1.0), (0.25, 0.0)])
def test_differences_without_spread_are_certain(shift: float, p_value: float) -> None:
    values = [0.5, 0.625, 0.75]
    found = compare([value + shift for value in values], values)
    assert found.p_value == p_value
    assert found.difference.mean == shift
    assert math.isfinite(found.difference.half_width or 0.0)


def test_one_pair_is_no_test() -> None:
    assert compare([0.9], [0.8]).p_value is None
