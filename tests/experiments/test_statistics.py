"""The statistics of replicas, against hand-worked numbers and scipy."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from samtune.experiments.statistics import compare, compare_unpaired, estimate, resolution


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


def test_equal_differences_are_known_to_one_example_only() -> None:
    """On 359 examples all three seeds differ by one: 1/359 ± t(0.975, 2) (1/359)/√6/√3, which holds 0."""
    sam, sgd = [345 / 359, 345 / 359, 344 / 359], [344 / 359, 344 / 359, 343 / 359]
    found = compare(sam, sgd)
    assert found.difference.mean == pytest.approx(1 / 359)
    assert found.difference.half_width == pytest.approx(4.302653 / 359 / math.sqrt(18), rel=1e-6)
    assert found.p_value == pytest.approx(2 * stats.t.sf(math.sqrt(18), 2))
    assert found.p_value > 0.05
    noisy = [value * (1 + 1e-7) for value in sam]  # float32's rounding is no step
    assert compare([*sam[:2], noisy[2]], sgd).difference.half_width == pytest.approx(
        found.difference.half_width, rel=1e-3
    )
    assert compare_unpaired([0.5, 0.5], [0.4, 0.4]).difference.half_width == pytest.approx(
        4.302653 * 0.1 / math.sqrt(12), rel=1e-6
    )


def test_the_same_values_differ_by_nothing() -> None:
    assert compare([0.5, 0.5], [0.5, 0.5]).p_value == 1.0
    assert compare_unpaired([0.5, 0.5], [0.5, 0.5]).p_value == 1.0


@pytest.mark.parametrize(
    ("values", "expected"), [([0.9, 0.9], 0.0), ([], 0.0), ([0.7, 0.9, 0.75, 0.7], 0.05), ([0.9, 0.9 + 1e-8], 0.0)]
)
def test_the_resolution_is_the_smallest_step(values: list[float], expected: float) -> None:
    assert resolution(values) == pytest.approx(expected)


def test_replicas_that_agree_have_the_interval_of_their_resolution() -> None:
    assert estimate([0.5, 0.5, 0.5], 0.01).half_width == pytest.approx(4.302653 * 0.01 / 6, rel=1e-6)
    assert estimate([0.5, 0.5, 0.5]).half_width == 0.0


def test_one_pair_is_no_test() -> None:
    assert compare([0.9], [0.8]).p_value is None
