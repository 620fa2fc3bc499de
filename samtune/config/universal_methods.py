"""The universal (φ, ψ, μ) class of training methods and its members."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from samtune.config.base import ImportPath
from samtune.config.method_base import PerturbedConfig


class DirectionsConfig(PerturbedConfig):
    """What the members of the universal class (Tahmasebi et al., ICML 2024) have. n + 1 passes for n directions.

    Objective `L(w) + λ·rho²·φ(mean_i ψ(t_i))` with `t_i = (L(w + rho·x_i) - L(w)) / rho²`.
    """

    lam: Annotated[float, Field(ge=0, allow_inf_nan=False, alias="lambda")] = 0.1
    """λ, weight of the regulariser."""
    num_directions: Annotated[int, Field(ge=1, alias="num_samples")] = 1
    """n, random directions per m-group and step."""

    @property
    def _passes(self) -> float:
        return self.num_directions + 1.0


class TraceSAMConfig(DirectionsConfig):
    """Trace-SAM: penalizes half the trace of the Hessian."""

    rule: ClassVar[str] = "samtune.sam.rules.universal:TraceRule"

    name: Literal["trace_sam"] = "trace_sam"
    """Method."""
    rho: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    """Radius; 0 is the base optimizer at 1 pass."""
    directions: Literal["gaussian", "sphere"] = "gaussian"
    """Distribution of x: standard normal, or uniform on the sphere of radius √d. E[xxᵀ] = I in both."""


class FrobSAMConfig(DirectionsConfig):
    """Frob-SAM: penalizes ¼ of the squared Frobenius norm of the Hessian, by a covariance over Gaussian directions."""

    rule: ClassVar[str] = "samtune.sam.rules.universal:FrobRule"

    name: Literal["frob_sam"] = "frob_sam"
    """Method."""
    rho: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    """Radius; 0 is the base optimizer at 1 pass."""
    lam: Annotated[float, Field(ge=0, allow_inf_nan=False, alias="lambda")] = 0.01
    """λ, weight of the regulariser."""
    num_directions: Annotated[int, Field(ge=2, alias="num_samples")] = 2
    """n, random directions per m-group and step; the covariance needs two."""


class DetSAMConfig(DirectionsConfig):
    """Det-SAM: penalizes the determinant of the Hessian, estimated in a cube.

    At the published half width it acts as a function of the trace; see `samtune.sam.rules.universal.DetRule`.
    """

    rule: ClassVar[str] = "samtune.sam.rules.universal:DetRule"

    name: Literal["det_sam"] = "det_sam"
    """Method."""
    rho: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """Radius; 0 is the base optimizer at 1 pass."""
    half_width: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.01
    """a: x is uniform in the cube [-a, a]^d."""


Measure = Literal["gaussian", "sphere", "gradient", "cube"] | ImportPath


class UniversalConfig(DirectionsConfig):
    """The universal class with your own φ, ψ and distribution of x."""

    rule: ClassVar[str] = "samtune.sam.rules.universal:UniversalRule"

    name: Literal["universal"] = "universal"
    """Method."""
    rho: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    """Radius; 0 is the base optimizer at 1 pass."""
    phi: Literal["identity"] | ImportPath = "identity"
    """φ: tensor [k] -> scalar tensor; `identity` (k = 1) or `package.module:function`. Differentiated by autograd."""
    psi: Literal["identity"] | ImportPath = "identity"
    """ψ: scalar tensor -> scalar or tensor [k]; `identity` or `package.module:function`."""
    directions: Measure | Annotated[list[Measure], Field(min_length=2)] = "gaussian"
    """μ: standard normal, sphere of radius √d, g/‖g‖₂, cube [-0.01, 0.01]^d, or a function (parameters, gradient,
    generator) -> tensors. A list gives each of the k outputs of ψ its own measure, at k·n + 1 passes."""

    @property
    def _passes(self) -> float:
        measures = 1 if isinstance(self.directions, str) else len(self.directions)
        return measures * self.num_directions + 1.0
