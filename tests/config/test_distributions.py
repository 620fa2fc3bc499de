"""What a searched key may be."""

from __future__ import annotations

from typing import Any

import pytest

from samtune.config.distributions import Choice, Int, LogUniform, Uniform, parse_distribution


@pytest.mark.parametrize(
    ("written", "distribution"),
    [
        ({"uniform": [0, 1.5]}, Uniform(low=0.0, high=1.5)),
        ({"log_uniform": [1e-3, 1]}, LogUniform(low=0.001, high=1.0)),
        ({"int": [1, 5]}, Int(low=1, high=5)),
        ({"choice": ["a", 1, None, True]}, Choice(choice=["a", 1, None, True])),
    ],
)
def test_what_is_written_is_read_and_written_again(written: dict[str, Any], distribution: Any) -> None:
    assert parse_distribution(written) == distribution
    assert parse_distribution(distribution.model_dump(mode="json")) == distribution
    assert all(distribution.contains(value) for value in distribution.extremes())


def test_contains_knows_types() -> None:
    assert not Int(low=1, high=5).contains(2.0)
    assert not Int(low=0, high=5).contains(True)
    assert Uniform(low=0.0, high=5.0).contains(2)
    assert not Choice(choice=[1]).contains(True)
    assert not Uniform(low=0.0, high=1.0).contains("0.5")


@pytest.mark.parametrize("written", [0.5, [0, 1], {}, {"uniform": [0, 1], "int": [0, 1]}, {"normal": [0, 1]}])
def test_anything_else_is_refused(written: Any) -> None:
    with pytest.raises(ValueError, match="a distribution is one of uniform, log_uniform, int, log_int, choice, grid"):
        parse_distribution(written)
