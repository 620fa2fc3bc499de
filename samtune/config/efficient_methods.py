"""Methods that spend fewer passes than SAM, and Fisher SAM."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from samtune.config.method_base import PerturbedConfig

FORWARD = 1 / 3  # of a pass, as `samtune.sam.m_group` counts it


class AESAMConfig(PerturbedConfig):
    """AE-SAM (Jiang et al., ICLR 2023): SAM at steps whose gradient is large beside its running mean. 1 to 2 passes.

    The passes are those of the paper's model, in which ‖g‖² is normally distributed: at the defaults 1.5 on average.
    A trial counts what it made, which may be more or less.
    """

    rule: ClassVar[str] = "samtune.sam.rules.efficient:AESAMRule"

    name: Literal["aesam"] = "aesam"
    """Method."""
    threshold_start: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    """λ₂: standard deviations above the mean of ‖g‖² from which a step is SAM's, at the beginning of the training."""
    threshold_end: Annotated[float, Field(allow_inf_nan=False)] = -1.0
    """λ₁: the same at the end; in between linear."""
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """δ, of the mean and the variance of ‖g‖², per step."""

    @property
    def _passes(self) -> float:
        low, high = sorted((self.threshold_start, self.threshold_end))
        if high == low:
            return 1.0 + _upper_tail(low)
        # The mean of the normal distribution's tail over the thresholds; its integral is c·Q(c) - φ(c).
        return 1.0 + (_tail_integral(high) - _tail_integral(low)) / (high - low)


def _upper_tail(c: float) -> float:
    return 0.5 * math.erfc(c / math.sqrt(2.0))


def _tail_integral(c: float) -> float:
    return c * _upper_tail(c) - math.exp(-0.5 * c * c) / math.sqrt(2.0 * math.pi)


class ESAMConfig(PerturbedConfig):
    """ESAM (Du et al., ICLR 2022): perturbs some weights, and descends on some examples. 1⅓ + γ passes."""

    rule: ClassVar[str] = "samtune.sam.rules.efficient:ESAMRule"

    name: Literal["esam"] = "esam"
    """Method."""
    beta: Annotated[float, Field(gt=0, le=1)] = 0.6
    """β, probability that a parameter (a whole tensor) is perturbed in a step; 1: all."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.5
    """γ, share of the m-group's examples that descend: those whose loss rose most. 1: all, at 2 passes."""

    @property
    def _passes(self) -> float:
        return 2.0 if self.gamma == 1 else 1.0 + FORWARD + self.gamma


class FisherSAMConfig(PerturbedConfig):
    """Fisher SAM (Kim et al., ICML 2022): a neighbourhood in the metric of the Fisher information. 2 passes."""

    rule: ClassVar[str] = "samtune.sam.rules.sam:FisherSAMRule"

    name: Literal["fisher_sam"] = "fisher_sam"
    """Method."""
    rho: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.1
    """Radius √(εᵀFε) of the neighbourhood; 0 is the base optimizer at 1 pass."""
    eta: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """η, weight of the Fisher information beside 1; 0 is SAM."""


class MESAConfig(PerturbedConfig):
    """MESA (Du et al., NeurIPS 2022): keeps the outputs close to those of a mean of the weights. 1⅓ passes."""

    rule: ClassVar[str] = "samtune.sam.rules.efficient:MESARule"

    name: Literal["mesa"] = "mesa"
    """Method."""
    rho: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.3
    """λ, weight of the trajectory loss; 0 is the base optimizer at 1 pass. Its schedules are those of other radii."""
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5.0
    """T, that the outputs are divided by before the softmax."""
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.9998
    """β, of the mean of the weights, per step."""

    @property
    def _passes(self) -> float:
        return 1.0 + FORWARD
