"""Two trainings of one trial in float32, compared epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

# Another order of summation may put one example, or one rounding, on the other side: these jump then.
_COUNTS = ("accuracy", "error", "top5", "lost_perturbation")
_COUNT_TOLERANCE = 0.12


def assert_records_agree(
    found: Sequence[Mapping[str, float]], wanted: Sequence[Mapping[str, float]], *, tolerance: float
) -> None:
    """With a tolerance of 0 every metric is the same; with another, what is counted may differ by some examples."""
    assert len(found) == len(wanted)
    for epoch, (one, other) in enumerate(zip(found, wanted, strict=True), start=1):
        assert one.keys() == other.keys(), epoch
        counts = {name for name in one if tolerance and any(part in name for part in _COUNTS)}
        smooth = one.keys() - counts
        assert {name: one[name] for name in smooth} == pytest.approx(
            {name: other[name] for name in smooth}, rel=tolerance, abs=tolerance, nan_ok=True
        ), epoch
        assert {name: one[name] for name in counts} == pytest.approx(
            {name: other[name] for name in counts}, abs=_COUNT_TOLERANCE, nan_ok=True
        ), epoch
