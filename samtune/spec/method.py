"""The training methods, one class each. A class listed in `MethodConfig` can be chosen and searched.

`rule` names the class that carries the method out (`samtune.sam.rules`); it is imported when a trial is built, so that
reading a search space does not load torch. "Pass" means one forward and backward of the whole batch.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from samtune.spec.base import Config

GroupSize = Annotated[int, Field(ge=1)] | Literal["worker", "global"]
"""How many examples share one perturbation."""


def _infinity(value: Any) -> Any:
    return math.inf if value == "inf" else value


class BaseOptimizerConfig(Config):
    """The base optimizer alone: the baseline of every comparison. 1 pass."""

    rule: ClassVar[str] = "samtune.sam.rules.base:Rule"

    name: Literal["sgd", "adamw"] = "sgd"
    """`sgd` takes whatever optimizer the training section names, `adamw` insists on AdamW."""

    @property
    def passes_per_step(self) -> float:
        """Forward+backward passes of the whole batch per step."""
        return 1.0


class PerturbedConfig(Config):
    """What all methods have that take their gradient at perturbed weights."""

    rule: ClassVar[str]

    m: GroupSize = "worker"
    """Examples that share one perturbation: a number, `worker` (each worker its own) or `global` (the whole batch)."""
    rho: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.05
    """Radius of the neighbourhood; 0 is the base optimizer at 1 pass."""
    rho_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the radius goes from `rho` at the first step to `rho_final` after the last."""
    rho_final: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Radius at the end of training (linear and cosine only)."""

    def rho_at(self, progress: float) -> float:
        """The radius after a share `progress` in [0, 1] of the training."""
        if self.rho_schedule == "constant":
            return self.rho
        left = 1.0 - progress if self.rho_schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
        return self.rho_final + (self.rho - self.rho_final) * left

    @property
    def passes_per_step(self) -> float:
        """Forward+backward passes of the whole batch per step; a radius of 0 throughout costs 1."""
        if self.rho == 0 and (self.rho_schedule == "constant" or self.rho_final == 0):
            return 1.0
        return self._passes

    @property
    def _passes(self) -> float:
        return 2.0


class SAMConfig(PerturbedConfig):
    """Sharpness-Aware Minimization (Foret et al., ICLR 2021). 2 passes; K + 1 with K ascent steps."""

    rule: ClassVar[str] = "samtune.sam.rules.sam:SAMRule"

    name: Literal["sam"] = "sam"
    """Method."""
    p: Annotated[float, BeforeValidator(_infinity), Field(ge=1)] = 2.0
    """The norm that bounds the perturbation, from 1 to inf."""
    ascent: Literal["gradient", "random"] = "gradient"
    """`random`: a direction drawn uniformly from the sphere instead of the gradient's, 1 pass (appendix C.5)."""
    ascent_steps: Annotated[int, Field(ge=1)] = 1
    """Steps of projected gradient ascent (appendix C.6)."""
    step_size: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Length of an ascent step; none: rho."""
    second_order: bool = False
    """Add the gradient through the perturbation itself, by a Hessian-vector product (appendix C.4). 4 passes."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.ascent == "random" and (self.p != 2 or self.ascent_steps > 1):
            raise ValueError(
                f"ascent random needs p = 2 and ascent_steps = 1 (p is {self.p}, ascent_steps {self.ascent_steps})"
            )
        if self.second_order and (self.p != 2 or self.ascent_steps > 1 or self.ascent == "random"):
            raise ValueError(
                "second_order needs p = 2, ascent_steps = 1 and ascent gradient "
                f"(p is {self.p}, ascent_steps {self.ascent_steps}, ascent {self.ascent})"
            )
        return self

    @property
    def _passes(self) -> float:
        if self.ascent == "random":
            return 1.0
        # The Hessian-vector product needs a forward, a backward that keeps its graph, and a backward through that.
        return 4.0 if self.second_order else self.ascent_steps + 1.0


MethodConfig = Annotated[BaseOptimizerConfig | SAMConfig, Field(discriminator="name")]
