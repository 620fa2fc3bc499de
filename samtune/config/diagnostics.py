"""How sharp the minimum is, measured while a trial is trained."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from samtune.config.base import Config


def _every(value: Any) -> Any:
    """`every 10 epochs` is 10, `every epoch` 1."""
    found = re.fullmatch(r"every(?: (\d+))? epochs?", value.strip()) if isinstance(value, str) else None
    return int(found[1] or 1) if found else value


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


Every = Annotated[int, BeforeValidator(_every, json_schema_input_type=int | str), Field(ge=1)]
GroupSizes = Annotated[list[Annotated[int, Field(ge=1)]], BeforeValidator(_as_list), Field(min_length=1)]


MEASURES = ("lambda_max", "eigenvalues", "spectrum", "frobenius", "m_sharpness")
"""The keys that say how often something is measured."""


class DiagnosticsConfig(Config):
    """Measures of sharpness and how often to take them: a number of epochs, or `every 10 epochs`.

    The last epoch is always measured, so that a measure can be an objective. What they cost counts in `num_passes`.
    """

    lambda_max: Every | None = None
    """The largest eigenvalue of the training loss's Hessian; 3 passes over the examples per step of Lanczos, of which
    it takes 10 to 50."""
    eigenvalues: Every | None = None
    """lambda_max as above, and its ratio to the fifth eigenvalue, `lambda_ratio` (Foret et al. 2021, section 4.2)."""
    spectrum: Every | None = None
    """Density of the Hessian's eigenvalues, as the quantiles `spectrum_q01`, `_q10`, `_q50`, `_q90` and `_q99`; 5
    passes over the examples for each of 80 steps of Lanczos, from two random probes."""
    frobenius: Every | None = None
    """The Hessian's Frobenius norm and trace, `hessian_frobenius` and `hessian_trace` (Tahmasebi et al. 2024, figure
    2); 2 passes over the examples per probe."""
    num_probes: Annotated[int, Field(ge=2)] = 100
    """Random probes of `frobenius`."""
    m_sharpness: Every | None = None
    """Mean over groups of m training examples of max L(w + ε) - L(w), ‖ε‖ <= rho; 1⅓ passes over the examples."""
    m: GroupSizes = Field(default_factory=lambda: [32])
    """Examples of a group; with a list, `m_sharpness` is that of the first and `m_sharpness_M` that of each."""
    rho: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.05
    """Radius of m_sharpness."""
    num_examples: Annotated[int, Field(ge=1)] = 1280
    """Number of training examples that both are measured on, drawn once with the trial's seed. Default: all."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        least = math.lcm(*self.m)
        if self.num_examples < least:
            raise ValueError(
                "num_examples must not be less than m, or the least common multiple of several "
                f"(num_examples is {self.num_examples}, it {least})"
            )
        return self

    def due(self, epoch: int, num_epochs: int) -> list[str]:
        """What is measured after an epoch, counted from 1."""
        intervals = {name: getattr(self, name) for name in MEASURES}
        return [name for name, every in intervals.items() if every and (epoch % every == 0 or epoch == num_epochs)]
