"""The training methods, one class each. A class listed in `MethodConfig` can be chosen and searched."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from samtune.config.base import own_or_builtin
from samtune.config.efficient_methods import AESAMConfig, ESAMConfig, FisherSAMConfig, MESAConfig
from samtune.config.method_base import BaseOptimizerConfig, PerturbedConfig
from samtune.config.own_method import OwnMethodConfig
from samtune.config.universal_methods import DetSAMConfig, FrobSAMConfig, TraceSAMConfig, UniversalConfig

OTHER_NAMES = {"lam": "lambda", "num_directions": "num_samples"}
"""What a space may call a key too, and what it is called: `lambda` and `num_samples` are the paper's words."""


def _infinity(value: Any) -> Any:
    return math.inf if value == "inf" else value


_ReadInfinity = BeforeValidator(_infinity, json_schema_input_type=float | Literal["inf"])


def _two_or_infinity(p: float) -> float:
    if p not in (2.0, math.inf):
        raise ValueError(f"must be 2 or inf (got {p:g})")
    return p


class SAMConfig(PerturbedConfig):
    """Sharpness-Aware Minimization (Foret et al., ICLR 2021). 2 passes; K + 1 with K ascent steps."""

    rule: ClassVar[str] = "samtune.sam.rules.sam:SAMRule"

    name: Literal["sam"] = "sam"
    """Method."""
    p: Annotated[float, _ReadInfinity, Field(ge=1)] = 2.0
    """The norm that bounds the perturbation, from 1 to inf."""
    ascent: Literal["gradient", "random"] = "gradient"
    """`random`: a direction drawn uniformly from the sphere instead of the gradient's, 1 pass (appendix C.5)."""
    ascent_steps: Annotated[int, Field(ge=1)] = 1
    """Steps of projected gradient ascent (appendix C.6)."""
    step_size: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Length of an ascent step; none: rho."""
    second_order: bool | Literal["observe"] = False
    """Add the gradient through the perturbation itself, by a Hessian-vector product (appendix C.4). 4 passes.
    `observe` computes it too, for the metric second_order_cosine, and takes the step without it."""

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


class ASAMConfig(PerturbedConfig):
    """Adaptive SAM (Kwon et al., ICML 2021): a neighbourhood that scales with the weights. 2 passes.

    All parameters are scaled, as in github.com/dbahri/universal_sam. SamsungLabs' code is `adaptive_biases: false`; a
    rho that was tuned there need not suit without it.
    """

    rule: ClassVar[str] = "samtune.sam.rules.sam:ASAMRule"

    name: Literal["asam"] = "asam"
    """Method."""
    rho: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.5
    """Radius relative to the weights; ten times SAM's or more is usual. 0 is the base optimizer at 1 pass."""
    p: Annotated[
        float,
        _ReadInfinity,
        AfterValidator(_two_or_infinity),
    ] = 2.0
    """The norm that bounds the perturbation, 2 or inf."""
    eta: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    """Added to |w| so that weights near 0 are perturbed too."""
    adaptive_biases: bool = True
    """Whether biases scale their neighbourhood too; the authors' code scales parameters named `weight` alone."""


class SparseConfig(PerturbedConfig):
    """What both kinds of Sparse SAM (Mi et al., NeurIPS 2022) have. 2 passes, the refresh of the mask not counted."""

    sparsity: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of the weights that are not perturbed."""
    update_every: Annotated[int, Field(ge=1)] = 1
    """Epochs between two refreshes of the mask."""


class SSAMFConfig(SparseConfig):
    """SSAM-F: perturbs the weights with the largest Fisher information."""

    rule: ClassVar[str] = "samtune.sam.rules.sparse:FisherMaskRule"

    name: Literal["ssam_f"] = "ssam_f"
    """Method."""
    num_examples: Annotated[int, Field(ge=1)] = 128
    """Training examples whose squared gradients estimate the Fisher information."""


class SSAMDConfig(SparseConfig):
    """SSAM-D: a dynamic mask that drops the weights with the flattest gradient and regrows others at random."""

    rule: ClassVar[str] = "samtune.sam.rules.sparse:DynamicMaskRule"

    name: Literal["ssam_d"] = "ssam_d"
    """Method."""
    drop_rate: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the perturbed weights that the first refresh exchanges; decays to 0 along a cosine."""
    num_examples: Annotated[int, Field(ge=1)] = 128
    """Training examples whose mean gradient decides what is dropped."""


class GSAMConfig(PerturbedConfig):
    """Surrogate Gap Guided SAM (Zhuang et al., ICLR 2022): SAM less the part of ∇L orthogonal to it. 2 passes."""

    rule: ClassVar[str] = "samtune.sam.rules.variants:GSAMRule"

    name: Literal["gsam"] = "gsam"
    """Method."""
    alpha: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.4
    """Weight of the orthogonal part; 0 is SAM."""


class USAMConfig(PerturbedConfig):
    """Unnormalized SAM (Andriushchenko & Flammarion, ICML 2022): perturbs by rho times the gradient. 2 passes."""

    rule: ClassVar[str] = "samtune.sam.rules.variants:USAMRule"

    name: Literal["usam"] = "usam"
    """Method."""


class WSAMConfig(PerturbedConfig):
    """WSAM (Yue et al., KDD 2023): weighs the sharpness by γ/(1 - γ). 2 passes."""

    rule: ClassVar[str] = "samtune.sam.rules.variants:WSAMRule"

    name: Literal["wsam"] = "wsam"
    """Method."""
    gamma: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """γ; 0 is the base optimizer, 0.5 SAM."""


class FSAMConfig(PerturbedConfig):
    """F-SAM, Friendly SAM (Li et al., CVPR 2024): takes the mean gradient off the ascent's. 2 passes."""

    rule: ClassVar[str] = "samtune.sam.rules.averaged:FSAMRule"

    name: Literal["fsam"] = "fsam"
    """Method."""
    sigma: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """σ, what part of the mean is taken off; 0 is SAM."""
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """λ, of the mean, per step."""


class VaSSOConfig(PerturbedConfig):
    """VaSSO (Li and Giannakis, NeurIPS 2023): perturbs along the mean of past gradients and this one. 2 passes."""

    rule: ClassVar[str] = "samtune.sam.rules.averaged:VaSSORule"

    name: Literal["vasso"] = "vasso"
    """Method."""
    theta: Annotated[float, Field(gt=0, le=1)] = 0.4
    """θ, weight of this step's gradient in the mean; 1 is SAM."""


class RWPConfig(PerturbedConfig):
    """Random weight perturbation (m-RWP: Li et al., TMLR 2024): the loss smoothed by noise. 1 pass; 2 if mixed."""

    rule: ClassVar[str] = "samtune.sam.rules.variants:RWPRule"

    name: Literal["rwp"] = "rwp"
    """Method."""
    rho: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    """Standard deviation of the noise in each weight; 0 is the base optimizer at 1 pass."""
    mix: Annotated[float, Field(gt=0, le=1)] = 1.0
    """λ, weight of the gradient at the perturbed weights; the rest is the gradient at w."""

    @property
    def _passes(self) -> float:
        return 1.0 if self.mix == 1 else 2.0


class LookSAMConfig(PerturbedConfig):
    """LookSAM (Liu et al., CVPR 2022): SAM every `k` steps, its direction reused in between. 1 + 1/k passes."""

    rule: ClassVar[str] = "samtune.sam.rules.variants:LookSAMRule"

    name: Literal["looksam"] = "looksam"
    """Method."""
    k: Annotated[int, Field(ge=1)] = 5
    """Steps from one SAM step to the next; 1 is SAM."""
    alpha: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.7
    """Weight of the reused direction, relative to the gradient's norm."""

    @property
    def _passes(self) -> float:
        return 1.0 + 1.0 / self.k


class MomentumSAMConfig(PerturbedConfig):
    """Momentum-SAM (Becker et al., 2024): perturbs along the base optimizer's momentum. 1 pass."""

    rule: ClassVar[str] = "samtune.sam.rules.variants:MomentumSAMRule"

    name: Literal["momentum_sam"] = "momentum_sam"
    """Method."""

    @property
    def _passes(self) -> float:
        return 1.0


BuiltinMethodConfig = Annotated[
    BaseOptimizerConfig
    | SAMConfig
    | ASAMConfig
    | SSAMFConfig
    | SSAMDConfig
    | GSAMConfig
    | USAMConfig
    | WSAMConfig
    | FSAMConfig
    | VaSSOConfig
    | RWPConfig
    | LookSAMConfig
    | MomentumSAMConfig
    | TraceSAMConfig
    | FrobSAMConfig
    | DetSAMConfig
    | UniversalConfig
    | AESAMConfig
    | ESAMConfig
    | FisherSAMConfig
    | MESAConfig,
    Field(discriminator="name"),
]
MethodConfig = Annotated[
    Annotated[BuiltinMethodConfig, Tag("builtin")] | Annotated[OwnMethodConfig, Tag("own")],
    Discriminator(own_or_builtin),
]
