from __future__ import annotations

import math
import shlex

import pytest

from samtune.config.overrides import parse_override
from samtune.config.yaml_source import parse_value
from samtune.formatting import (
    counted,
    first_line,
    format_clock,
    format_metric,
    format_number,
    format_seconds,
    format_value,
    set_arguments,
    short_names,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0512345, "0.0512"),
        (0.1, "0.1"),
        (0.3, "0.3"),
        (0.0012, "1.2e-03"),
        (0.0005, "5e-04"),
        (1.23456e-5, "1.23e-05"),
        (0.0, "0"),
        (1.0, "1"),
        (200, "200"),
        (123456, "123456"),
        (1234.5, "1230"),
        (1e6, "1e+06"),
        (-0.25, "-0.25"),
        (math.nan, "nan"),
        (math.inf, "inf"),
    ],
)
def test_numbers_have_three_significant_digits(value: float, text: str) -> None:
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.97778, "0.9778"), (1.0, "1.0000"), (12.34567, "12.3457"), (0.0, "0.0000"), (2.5e-6, "2.500e-06"), (None, "-")],
)
def test_metrics_have_four_decimals(value: float | None, text: str) -> None:
    assert format_metric(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(True, "true"), (None, "none"), ("sam", "sam"), (64, "64"), (0.05, "0.05")]
)
def test_values_of_any_type(value: float | str | None, text: str) -> None:
    assert format_value(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0.0s"), (3.24, "3.2s"), (9.99, "0:10"), (48, "0:48"), (62, "1:02"), (3723, "1:02:03")]
)
def test_durations(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_clock_has_whole_seconds() -> None:
    assert [format_clock(s) for s in (0.4, 3.0, 3600)] == ["0:00", "0:03", "1:00:00"]


def test_short_names_are_as_long_as_it_takes() -> None:
    assert short_names(["method.rho", "training.lr", "model.name", "method.name"]) == {
        "method.rho": "rho",
        "training.lr": "lr",
        "model.name": "model",
        "method.name": "method",
    }
    assert short_names(["lr", "training.lr"]) == {"lr": "lr", "training.lr": "training.lr"}


@pytest.mark.parametrize(
    "value",
    [0.1 + 0.2, 1e-05, 5e-324, 1e22, -3.5, 64, True, False, None, "sam", "true", "1e-3", "with space", "a: b", "'", ""],
)
def test_set_arguments_come_back_as_they_were(value: float | str | None) -> None:
    flag, assignment = shlex.split(set_arguments({"method.x": value}))
    assert flag == "--set"
    key, parsed = parse_override(assignment)
    assert (key, parsed, type(parsed)) == ("method.x", value, type(value))
    assert parse_value(assignment.partition("=")[2]) == value


def test_first_line_skips_blank_ones() -> None:
    assert first_line("\n  \n ValueError: x\nmore") == "ValueError: x"
    assert first_line(None) == ""


def test_one_thing_is_not_written_as_many() -> None:
    assert [counted(count, "trial") for count in (0, 1, 2)] == ["0 trials", "1 trial", "2 trials"]
