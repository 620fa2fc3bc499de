"""What a searched key may be: a distribution, written as `{name: bounds}`."""

from __future__ import annotations

import difflib
import math
import random
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_serializer, model_validator

from samtune.config.base import Config
from samtune.study import Scalar

_TOLERANCE = 1e-8  # of a step: values on it carry rounding errors


class _Interval(Config):
    """An interval with both ends included, written `{kind: [low, high]}`."""

    kind: ClassVar[str]
    is_whole: ClassVar[bool] = False
    low: float
    high: float
    step: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_yaml(cls, value: Any) -> Any:
        if not isinstance(value, dict) or cls.kind not in value:
            return value
        bounds, options = value[cls.kind], {key: option for key, option in value.items() if key != cls.kind}
        if not isinstance(bounds, list) or len(bounds) != 2:
            raise ValueError(f"{cls.kind} takes two bounds, [low, high] (got {bounds!r})")
        number, a_number = (int, "a whole number") if cls.is_whole else (int | float, "a number")
        for name, bound in {"lower bound": bounds[0], "upper bound": bounds[1], **options}.items():
            if name in ("lower bound", "upper bound", "step") and (
                isinstance(bound, bool) or not isinstance(bound, number)
            ):
                raise ValueError(f"{cls.kind}: the {name} must be {a_number} (got {bound!r})")
        return {"low": bounds[0], "high": bounds[1], **options}

    @model_validator(mode="after")
    def _check(self) -> Self:
        for bound in (self.low, self.high):
            if not math.isfinite(bound):
                raise ValueError(f"bounds must be finite (got [{self.low}, {self.high}])")
        if self.low >= self.high:
            problem = "empty" if self.low == self.high else "inverted"
            raise ValueError(f"low must be less than high: the interval [{self.low}, {self.high}] is {problem}")
        if self.step is not None:
            num_steps = (self.high - self.low) / self.step
            if abs(num_steps - round(num_steps)) > _TOLERANCE * max(1.0, num_steps):
                last = self.nearest(self.low + math.floor(num_steps) * self.step)
                raise ValueError(
                    f"high must be a whole number of steps above low: from {self.low:g} in steps of {self.step:g} "
                    f"the last below {self.high:g} is {last:g}"
                )
        return self

    @model_serializer
    def _to_yaml(self) -> dict[str, Any]:
        return {self.kind: [self.low, self.high]} | ({} if self.step is None else {"step": self.step})

    def extremes(self) -> list[Scalar]:
        """Values at which a rule on the key must hold for it to hold everywhere."""
        return [self.low, self.high]

    def values(self) -> Sequence[Scalar] | None:
        """All values in order; None where they cannot be listed."""
        if self.step is None:
            return None
        return [self.nearest(self.low + index * self.step) for index in range(self._num_steps + 1)]

    @property
    def _num_steps(self) -> int:
        assert self.step is not None
        return round((self.high - self.low) / self.step)

    def nearest(self, value: float) -> float:
        """The value on the steps that is nearest, without rounding errors: 0.3, not 0.30000000000000004."""
        if self.step is None:
            return value
        low, step = Decimal(str(self.low)), Decimal(str(self.step))
        return float(low + round((Decimal(str(value)) - low) / step) * step)

    def contains(self, value: Scalar) -> bool:
        if not isinstance(value, float | int) or isinstance(value, bool) or not math.isfinite(value):
            return False
        if self.step is None:
            return self.low <= value <= self.high
        nearest = self.nearest(value)  # what a program has computed is off the step by its rounding errors
        return self.low <= nearest <= self.high and abs(value - nearest) <= _TOLERANCE * self.step

    def encode(self, value: Scalar) -> Scalar:
        """The value that a sampler has for one that `contains` accepts."""
        return self.nearest(value) if isinstance(value, float) else value

    def random(self, rng: random.Random) -> Scalar:
        """A draw."""
        return self.nearest(rng.uniform(self.low, self.high))

    def decode(self, value: Scalar) -> Any:
        """What a trial gets for a value of its configuration."""
        return value

    def __str__(self) -> str:
        return f"{self.kind} {self.low:g} … {self.high:g}" + ("" if self.step is None else f" step {self.step:g}")


class Uniform(_Interval):
    """A real number, uniform in [low, high]; with `step`, one of low, low + step, … high."""

    kind = "uniform"


class _LogInterval(_Interval):
    @model_validator(mode="after")
    def _check_log(self) -> Self:
        if self.low <= 0:
            raise ValueError(f"{self.kind} needs bounds greater than 0 (low is {self.low:g})")
        if self.step is not None:
            raise ValueError(f"{self.kind} has no step (got {self.step:g}); list the values in a choice")
        return self


class LogUniform(_LogInterval):
    """A positive real number whose logarithm is uniform in [log low, log high]."""

    kind = "log_uniform"

    def random(self, rng: random.Random) -> Scalar:
        draw = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        return min(max(draw, self.low), self.high)


class _IntInterval(_Interval):
    is_whole = True
    low: int
    high: int

    def values(self) -> Sequence[Scalar]:
        return range(self.low, self.high + 1)

    def contains(self, value: Scalar) -> bool:
        return isinstance(value, int) and super().contains(value)


class Int(_IntInterval):
    """A whole number in [low, high], both included; with `step`, one of low, low + step, … high."""

    kind = "int"
    step: Annotated[int, Field(gt=0)] | None = None

    def values(self) -> Sequence[Scalar]:
        return range(self.low, self.high + 1, self.step or 1)

    def random(self, rng: random.Random) -> Scalar:
        return rng.randrange(self.low, self.high + 1, self.step or 1)


class LogInt(_IntInterval, _LogInterval):
    """A positive whole number in [low, high] whose logarithm is about uniform."""

    kind = "log_int"

    def random(self, rng: random.Random) -> Scalar:
        draw = round(math.exp(rng.uniform(math.log(self.low - 0.5), math.log(self.high + 0.5))))
        return min(max(draw, self.low), self.high)


class Choice(Config):
    """One of the listed values, written `{choice: [a, b, …]}`. A value may be a list, which goes by its text."""

    kind: ClassVar[str] = "choice"
    choice: Annotated[list[Scalar | list[Scalar]], Field(min_length=1)]

    @model_validator(mode="before")
    @classmethod
    def _from_yaml(cls, value: Any) -> Any:
        if not isinstance(value, dict) or set(value) != {cls.kind}:
            return value
        options = value[cls.kind]
        if not isinstance(options, list) or not options:
            raise ValueError(f"{cls.kind} takes a list of one value or more, e.g. [0.1, 0.2] (got {options!r})")
        return {"choice": options}

    @model_validator(mode="after")
    def _check(self) -> Self:
        seen: list[tuple[bool, Scalar]] = []
        for value, label in zip(self.choice, self.extremes(), strict=True):
            same = (isinstance(label, bool), label)  # 1 and 1.0 are one value, 1 and true are two
            if same in seen:
                raise ValueError(f"{self.kind} lists a value twice (got {value!r})")
            seen.append(same)
        return self

    @model_serializer
    def _to_yaml(self) -> dict[str, Any]:
        return {self.kind: self.choice}

    def extremes(self) -> list[Scalar]:
        """The values as a configuration has them; lists as text."""
        return [list_text(value) if isinstance(value, list) else value for value in self.choice]

    def values(self) -> Sequence[Scalar]:
        return self.extremes()

    def contains(self, value: Scalar) -> bool:
        return any(type(value) is type(option) and value == option for option in self.extremes())

    def encode(self, value: Scalar) -> Scalar:
        return value

    def random(self, rng: random.Random) -> Scalar:
        return rng.choice(self.extremes())

    def decode(self, value: Scalar) -> Any:
        lists = [option for option in self.choice if isinstance(option, list)]
        return next((option for option in lists if list_text(option) == value), value)

    def __str__(self) -> str:
        return f"{self.kind} " + ", ".join(str(value) for value in self.choice)


class Grid(Choice):
    """All the listed values, each with every combination of the others, written `{grid: [a, b, …]}`."""

    kind: ClassVar[str] = "grid"


Distribution = Uniform | LogUniform | Int | LogInt | Choice | Grid

KINDS: dict[str, type[Distribution]] = {cls.kind: cls for cls in (Uniform, LogUniform, Int, LogInt, Choice, Grid)}
OPTIONS = ("step",)
"""Keys allowed next to the kind."""


def list_text(values: Sequence[Scalar]) -> str:
    """A list as a configuration and MLflow have it: `50, 100`."""
    return ", ".join(str(value) for value in values)


def kind_of(value: Any) -> str | None:
    """The kind of distribution that a mapping is meant to be; None if none."""
    kinds = [key for key in value if key in KINDS] if isinstance(value, Mapping) else []
    return str(kinds[0]) if len(kinds) == 1 else None


def parse_distribution(value: Any) -> Distribution:
    """Turns `{log_uniform: [1e-3, 1]}` into a distribution.

    Raises:
        ValueError: (pydantic's included) for an unknown kind, or bounds that break the kind's rule.
    """
    if isinstance(value, tuple(KINDS.values())):
        return value  # type: ignore[return-value]
    rule = f"a distribution is one of {', '.join(KINDS)} with its bounds, e.g. {{log_uniform: [0.01, 1.0]}}"
    kind = kind_of(value)
    if kind is not None:
        cls = KINDS[kind]
        other = next((key for key in value if key != kind and (key not in OPTIONS or issubclass(cls, Choice))), None)
        if other is not None:
            hint = "; keys of a branch stand in its option" if issubclass(cls, Choice) else "; valid is step"
            raise ValueError(f"{kind} takes no {other!r}{hint}")
        return cls.model_validate(value)
    if not isinstance(value, Mapping) or not value or len(value.keys() - set(OPTIONS)) != 1:
        raise ValueError(f"{rule} (got {value!r})")
    (name,) = value.keys() - set(OPTIONS)
    near = difflib.get_close_matches(str(name), KINDS, n=1)
    raise ValueError(f"{rule} (got {name!r}{f'; did you mean {near[0]!r}?' if near else ''})")
