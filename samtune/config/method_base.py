"""What all training methods have in common: the radius, who shares it, when it applies, and the passes of a step.

"Pass" means one forward and backward of the whole batch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from samtune.config.base import Config
from samtune.sam.when import When

if TYPE_CHECKING:
    from samtune.sam.rules.base import Rule

GroupSize = Annotated[int, Field(ge=1)] | Literal["worker", "global"]
"""How many examples share one perturbation."""

Share = Annotated[float, Field(ge=0, le=1)]
"""A part of the whole, from 0 to 1."""


def _pattern(perturb: str) -> str:
    try:
        re.compile(perturb)
    except re.error as error:
        raise ValueError(
            f"must be all, no_norm_bias, only_norm or a regular expression (got {perturb!r}: {error})"
        ) from None
    return perturb


class RuleConfig(Config):
    """A method that a rule of `samtune.sam.rules` carries out, with the other keys as its options."""

    rule: ClassVar[str]
    """Import path of the rule; it is imported when a trial is built, so that reading a space does not load torch."""

    def make_rule(self, parameters: Sequence[Any], seed: int) -> Rule:
        """The rule, for a trial's parameters; see `samtune.sam.MethodLike`."""
        common = {"name", *PerturbedConfig.model_fields}  # of the method, not of what its rule computes
        options = {key: getattr(self, key) for key in type(self).model_fields if key not in common}
        rule: Rule = resolve_name(self.rule)(parameters, seed, **options)
        return rule


class BaseOptimizerConfig(RuleConfig):
    """The base optimizer alone: the baseline of every comparison. 1 pass."""

    name: Literal["sgd", "adamw"] = "sgd"
    """`sgd` takes whatever optimizer the training section names, `adamw` insists on AdamW."""

    @property
    def group_size(self) -> Literal["worker"]:
        """There is no perturbation to share."""
        return "worker"

    def rho_at(self, progress: float) -> float:
        """There is none."""
        return 0.0

    def make_rule(self, parameters: Sequence[Any], seed: int) -> Rule:
        from samtune.sam.rules.base import AdamWRule, Rule

        return (AdamWRule if self.name == "adamw" else Rule)(parameters, seed)

    @property
    def passes_per_step(self) -> float:
        """Forward+backward passes of the whole batch per step."""
        return 1.0


class PerturbedConfig(RuleConfig):
    """What all methods have that take their gradient at perturbed weights."""

    m: GroupSize = "worker"
    """Examples that share one perturbation: a number, `worker` (each worker its own) or `global` (the whole batch)."""
    rho: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.05
    """Radius of the neighbourhood; 0 is the base optimizer at 1 pass."""
    rho_schedule: Literal["constant", "linear", "cosine", "warmup", "proportional_to_lr"] = "constant"
    """How the radius goes. `linear` and `cosine`: from `rho` at the first step to `rho_final` after the last; `warmup`:
    from 0 to `rho` over the first `rho_warmup` of the training; `proportional_to_lr` (GSAM's authors): from `rho` at
    the peak learning rate to `rho_final` at a learning rate of 0."""
    rho_final: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Radius at the end of training (linear, cosine and proportional_to_lr only)."""
    rho_warmup: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of the training over which the radius rises linearly from 0 (warmup only)."""
    every: Annotated[int, Field(ge=1)] = 1
    """The method's step is each k-th; those in between are the base optimizer's, at 1 pass."""
    start: Share = 0.0
    """Share of the training before which all steps are the base optimizer's."""
    stop: Share = 1.0
    """Share of the training from which on all steps are the base optimizer's."""
    probability: Share = 1.0
    """That a step is the method's (SS-SAM), drawn from the seed: the same on all workers and after a resume. The passes
    of a step are then a mean, and a trial's differ from it by chance."""

    perturb: Annotated[str, Field(min_length=1), AfterValidator(_pattern)] = "all"
    """Which parameters are perturbed; the others do not enter the norm of ε̂ either. `all`, `no_norm_bias` (without
    those of normalisation layers and biases), `only_norm` (SAM-ON), or a regular expression searched in their names."""

    @model_validator(mode="after")
    def _check_when(self) -> Self:
        _ = self.when
        return self

    @property
    def when(self) -> When:
        """Which steps are the method's."""
        return When(self.every, self.start, self.stop, self.probability)

    @property
    def rho_follows_lr(self) -> bool:
        """Whether `rho_at` is to be asked with 1 - lr / peak lr for the progress."""
        return self.rho_schedule == "proportional_to_lr"

    @property
    def group_size(self) -> GroupSize:
        """m."""
        return self.m

    def rho_at(self, progress: float) -> float:
        """The radius after a share `progress` in [0, 1] of the training."""
        if self.rho_schedule == "constant":
            return self.rho
        if self.rho_schedule == "warmup":
            return self.rho * min(1.0, progress / self.rho_warmup)
        left = 0.5 * (1.0 + math.cos(math.pi * progress)) if self.rho_schedule == "cosine" else 1.0 - progress
        return self.rho_final + (self.rho - self.rho_final) * left

    @property
    def passes_per_step(self) -> float:
        """Forward+backward passes of the whole batch per step; a radius of 0 throughout costs 1."""
        if self.rho == 0 and (self.rho_schedule in ("constant", "warmup") or self.rho_final == 0):
            return 1.0
        return 1.0 + (self._passes - 1.0) * self.when.share

    @property
    def _passes(self) -> float:
        return 2.0
