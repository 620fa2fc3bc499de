"""The order of two networks by a measure, and by their generalization gap (SAM paper, figure 3, right)."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
import torch

from samtune.errors import UsageError
from samtune.sharpness import least_order_information, order_information

# Two groups of four. Within a group 3 of the 6 pairs agree: the measure tells nothing there. Between them all 16 agree.
WITHIN = ([1.0, 2.0, 3.0, 4.0], [1.0, 4.0, 3.0, 2.0])
MEASURE = torch.tensor(WITHIN[0] + [10 + x for x in WITHIN[0]], dtype=torch.float64)
GAP = torch.tensor(WITHIN[1] + [10 + x for x in WITHIN[1]], dtype=torch.float64)
GROUP = ["small"] * 4 + ["large"] * 4


def h(p: float) -> float:
    """Entropy of a coin, in bits."""
    return -p * math.log2(p) - (1 - p) * math.log2(1 - p)


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_without_conditioning_it_is_one_bit_less_the_entropy_of_agreement() -> None:
    """1, 2, 3, 4 by one and 1, 2, 4, 3 by the other: 5 of 6 pairs agree, and each sign is as likely as the other."""
    found = order_information(tensor(1, 2, 3, 4), tensor(1, 2, 4, 3))
    assert found.bits == pytest.approx(1 - h(5 / 6), abs=1e-14)
    assert found.entropy == pytest.approx(1, abs=1e-14)
    assert found.num_pairs == 12
    reverse = order_information(tensor(1, 2, 3, 4), -tensor(1, 2, 3, 4))  # a reversed order says as much
    assert reverse.bits == pytest.approx(1, abs=1e-14)


def test_what_a_hyperparameter_tells_already_does_not_count() -> None:
    # 56 ordered pairs: 24 within the groups, of which 12 agree, and 32 between them, which all agree.
    alone = order_information(MEASURE, GAP)
    assert alone.bits == pytest.approx(1 - h(44 / 56), abs=1e-14)
    # Given the groups, the pairs between them are certain; the 24 others have one bit, of which the measure tells none.
    given = order_information(MEASURE, GAP, [GROUP])
    assert given.entropy == pytest.approx(24 / 56, abs=1e-14)
    assert given.bits == pytest.approx(0, abs=1e-14)


def test_a_part_of_the_entropy_that_is_left() -> None:
    """One group in the order of the gap, one with 5 of 6 pairs in it: (12·1 + 12·(1 - h(5/6))) of 24 bits."""
    measure = torch.cat([tensor(1, 2, 3, 4), tensor(11, 12, 14, 13)])
    gap = torch.cat([tensor(1, 2, 3, 4), tensor(11, 12, 13, 14)])
    found = order_information(measure, gap, [GROUP])
    assert found.normalized == pytest.approx((2 - h(5 / 6)) / 2, abs=1e-14)


def test_the_least_over_the_sets_of_hyperparameters() -> None:
    value, given = least_order_information(MEASURE, GAP, {"seed": [0, 1] * 4, "width": GROUP})
    assert value == pytest.approx(0, abs=1e-14)
    assert "width" in given
    value, given = least_order_information(GAP.exp(), GAP, {"seed": [0, 1] * 4, "width": GROUP})
    assert value == pytest.approx(1, abs=1e-14)  # the gap's own order is more than any hyperparameter tells
    none = least_order_information(MEASURE, GAP, {"width": GROUP}, max_given=0)
    assert none == (pytest.approx(1 - h(44 / 56), abs=1e-14), ())


def test_against_a_count_of_every_pair() -> None:
    """I = Σ p(u, a, b) log2[p(u, a, b) p(u) / (p(u, a) p(u, b))], on values that tie now and then."""
    generator = random.Random(0)
    measure, gap, one, other = ([generator.randrange(top) for _ in range(15)] for top in (9, 9, 2, 3))
    triples = [
        ((one[i], other[i], one[j], other[j]), measure[i] > measure[j], gap[i] > gap[j])
        for i in range(15)
        for j in range(15)
        if measure[i] != measure[j] and gap[i] != gap[j]
    ]
    n, full = len(triples), Counter(triples)
    cell, left, right = (
        Counter(t[0] for t in triples),
        Counter(t[:2] for t in triples),
        Counter(t[::2] for t in triples),
    )
    expected = sum(k / n * math.log2(k * cell[u] / (left[u, a] * right[u, b])) for (u, a, b), k in full.items())
    found = order_information(tensor(*measure), tensor(*gap), [one, other])
    assert found.num_pairs == n
    assert found.bits == pytest.approx(expected, abs=1e-13)
    assert found.entropy == pytest.approx(
        -sum(k / n * math.log2(k / cell[u]) for (u, _), k in right.items()), abs=1e-13
    )


def test_where_nothing_can_be_told() -> None:
    constant = order_information(MEASURE, torch.ones(8, dtype=torch.float64))
    assert math.isnan(constant.bits)
    assert constant.num_pairs == 0
    alone = order_information(MEASURE, GAP, [list(range(8))])  # each network has a value of its own
    assert (alone.bits, alone.entropy) == (0, 0)
    assert math.isnan(alone.normalized)
    value, given = least_order_information(MEASURE, GAP, {"seed": list(range(8))})
    assert (value, given) == (order_information(MEASURE, GAP).normalized, ())


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(UsageError, match=r"one value per network \(got \[8, 7\] values\)"):
        order_information(MEASURE, GAP[:7])
    with pytest.raises(UsageError, match=r"one value per network \(got \[8, 8, 2\] values\)"):
        order_information(MEASURE, GAP, [["a", "b"]])
    with pytest.raises(UsageError, match=r"gap must be finite \(got nan\)"):
        order_information(MEASURE, torch.where(GAP > 3, math.nan, GAP))
