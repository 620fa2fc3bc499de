"""What a searched key may be: one distribution per dotted key, written as `{name: [low, high]}`."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_serializer, model_validator

from samtune.records import Scalar
from samtune.spec.base import Config


class _Interval(Config):
    """An interval with both ends included, written `{kind: [low, high]}`."""

    kind: ClassVar[str]
    low: float
    high: float

    @model_validator(mode="before")
    @classmethod
    def _from_yaml(cls, value: Any) -> Any:
        bounds = value[cls.kind] if isinstance(value, dict) and set(value) == {cls.kind} else value
        if isinstance(bounds, list):
            if len(bounds) != 2:
                raise ValueError(f"{cls.kind} takes two bounds, [low, high] (got {bounds})")
            return {"low": bounds[0], "high": bounds[1]}
        if isinstance(value, dict) and set(value) == {cls.kind}:
            raise ValueError(f"{cls.kind} takes two bounds, [low, high] (got {bounds!r})")
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        for bound in (self.low, self.high):
            if not math.isfinite(bound):
                raise ValueError(f"bounds must be finite (got [{self.low}, {self.high}])")
        if self.low >= self.high:
            problem = "empty" if self.low == self.high else "inverted"
            raise ValueError(f"low must be less than high: the interval [{self.low}, {self.high}] is {problem}")
        return self

    @model_serializer
    def _to_yaml(self) -> dict[str, Any]:
        return {self.kind: [self.low, self.high]}

    def extremes(self) -> list[Scalar]:
        """Values at which a rule on the key must hold for it to hold everywhere."""
        return [self.low, self.high]

    def contains(self, value: Scalar) -> bool:
        return isinstance(value, float | int) and not isinstance(value, bool) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.kind} {self.low:g} … {self.high:g}"


class Uniform(_Interval):
    """A real number, uniform in [low, high]."""

    kind = "uniform"


class LogUniform(_Interval):
    """A positive real number whose logarithm is uniform in [log low, log high]."""

    kind = "log_uniform"

    @model_validator(mode="after")
    def _check_positive(self) -> Self:
        if self.low <= 0:
            raise ValueError(f"log_uniform needs bounds greater than 0 (low is {self.low:g})")
        return self


class Int(_Interval):
    """A whole number in [low, high], both included."""

    kind = "int"
    low: int
    high: int

    def contains(self, value: Scalar) -> bool:
        return isinstance(value, int) and super().contains(value)


class Choice(Config):
    """One of the listed values, written `{choice: [a, b, …]}`."""

    kind: ClassVar[str] = "choice"
    choice: Annotated[list[Scalar], Field(min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        seen: list[tuple[type, Scalar]] = []
        for value in self.choice:
            if (type(value), value) in seen:
                raise ValueError(f"choice lists a value twice (got {value!r})")
            seen.append((type(value), value))
        return self

    def extremes(self) -> list[Scalar]:
        return list(self.choice)

    def contains(self, value: Scalar) -> bool:
        return any(type(value) is type(option) and value == option for option in self.choice)

    def __str__(self) -> str:
        return "choice " + ", ".join(str(value) for value in self.choice)


Distribution = Uniform | LogUniform | Int | Choice

KINDS: dict[str, type[Distribution]] = {"uniform": Uniform, "log_uniform": LogUniform, "int": Int, "choice": Choice}


def parse_distribution(value: Any) -> Distribution:
    """Turns `{log_uniform: [1e-3, 1]}` into a distribution.

    Raises:
        ValueError: (pydantic's included) for an unknown kind, or bounds that break the kind's rule.
    """
    import difflib

    if isinstance(value, Uniform | LogUniform | Int | Choice):
        return value
    rule = f"a distribution is one of {', '.join(KINDS)} with its bounds, e.g. {{log_uniform: [0.01, 1.0]}}"
    if not isinstance(value, dict) or len(value) != 1:
        raise ValueError(f"{rule} (got {value!r})")
    (kind,) = value
    if kind not in KINDS:
        near = difflib.get_close_matches(str(kind), KINDS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{rule} (got {kind!r}{hint})")
    return KINDS[kind].model_validate(value)
