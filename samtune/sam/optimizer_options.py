"""What `SAM` takes of its arguments and parameter groups, and the perturbation that they ask for."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.optim import Optimizer

from samtune.sam import vectors
from samtune.sam.rules.sam import adaptive_perturbation
from samtune.sam.when import When

_OF_THE_WHOLE = (
    *("p", "adaptive", "eta", "m", "adaptive_biases", "base_optimizer"),
    *("every", "start", "stop", "probability", "perturb", "seed"),
)


@dataclass(frozen=True)
class Ascent:
    """The norm and the neighbourhood of the perturbation; see `SAM`.

    Raises:
        ValueError: p, eta or m is out of range.
    """

    p: float
    adaptive: bool
    eta: float
    m: Literal["worker", "global"]
    adaptive_biases: bool

    def __post_init__(self) -> None:
        if not self.p >= 1 or (self.adaptive and self.p not in (2, math.inf)):
            raise ValueError(f"p must lie in [1, inf], with adaptive it must be 2 or inf (got {self.p})")
        if not self.eta >= 0:
            raise ValueError(f"eta must be at least 0 (got {self.eta})")
        if self.m not in ("worker", "global"):
            raise ValueError(f"m must be worker or global (got {self.m!r})")

    def check_shards(self, sharded: bool) -> None:
        """Raises ValueError where there is no such perturbation of parameters that `fully_shard` has sharded."""
        if sharded and self.m != "global":
            raise ValueError(
                "sharded parameters (DTensor: fully_shard) have one gradient, averaged over the workers: use "
                "SAM(..., m='global'), or DistributedDataParallel for an epsilon of each worker"
            )
        if sharded and self.p == 1:
            raise ValueError("p must be above 1 for sharded parameters (got 1)")

    def unit(
        self, parameters: Sequence[Tensor], gradient: Sequence[Tensor], names: Sequence[str]
    ) -> tuple[Sequence[Tensor], Tensor | None]:
        """ε̂ of radius 1: a vector, which may be the gradient, and a number that it is to be multiplied by.

        Args:
            names: of the parameters, for `adaptive_biases`.
        """
        if self.adaptive:
            adapts = [self.adaptive_biases or "weight" in name for name in names]
            length = vectors.norm(gradient)
            return adaptive_perturbation(parameters, gradient, length, 1.0, p=self.p, eta=self.eta, adapts=adapts), None
        unit = gradient if self.p == 2 else [tensor.clone() for tensor in gradient]
        _, scale = vectors.dual_direction_(unit, 1.0, self.p)
        return unit, scale


@dataclass(frozen=True)
class Occasions:
    """Which steps are SAM's; see `SAM`.

    Raises:
        ValueError: a value is out of range.
    """

    every: int
    start: int
    stop: int | None
    probability: float
    seed: int

    def __post_init__(self) -> None:
        When(every=self.every, probability=self.probability)
        if self.start < 0:
            raise ValueError(f"start must be a number of steps (got {self.start})")
        if self.stop is not None and self.stop <= self.start:
            raise ValueError(f"stop must be larger than start (start is {self.start}, stop {self.stop})")

    @property
    def are_all(self) -> bool:
        """Whether every step is SAM's."""
        return (self.every, self.start, self.stop, self.probability) == (1, 0, None, 1.0)

    def hold(self, step: int) -> bool:
        """Whether the step after so many others is SAM's."""
        inside = self.start <= step and (self.stop is None or step < self.stop)
        return inside and When(every=self.every, probability=self.probability).holds(step, 0.0, self.seed)


def check_arguments(params: Any, base_optimizer: Any) -> None:
    """What people pass in another's place, since other libraries take it there. Raises TypeError."""
    if isinstance(params, nn.Module):
        raise TypeError(f"params must be parameters or groups of them: {type(params).__name__}.parameters()")
    if isinstance(params, Optimizer):
        raise TypeError(
            "params must be parameters or groups of them; SAM makes the optimizer: SAM(model.parameters(), "
            f"torch.optim.{type(params).__name__}, lr=0.1, rho=0.05)"
        )
    if not callable(base_optimizer):
        raise TypeError(
            "base_optimizer must be a class, and its options follow: SAM(model.parameters(), torch.optim.SGD, lr=0.1, "
            f"rho=0.05) (got {type(base_optimizer).__name__} as an object)"
        )


def check_rho(rho: Any) -> None:
    """Raises ValueError for what is no radius."""
    if not 0 <= rho < math.inf:
        raise ValueError(f"rho must be at least 0 and finite (got {rho})")


def check_group(group: dict[str, Any]) -> None:
    """Raises ValueError where a parameter group has what it cannot have."""
    check_rho(group["rho"])
    for name in _OF_THE_WHOLE:
        if name in group:
            raise ValueError(f"a parameter group cannot have its own {name}: it is of the whole optimizer")


def needs_closure(optimizer: Optimizer) -> bool:
    """LBFGS evaluates the loss as often as it likes: there is no step for it to take from one gradient."""
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty
