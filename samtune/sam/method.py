"""What `TrainStep` trains with: a rule, how far it looks, and which examples share a perturbation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

from torch import Tensor

from samtune.sam.rules.base import Rule

GroupSize = int | Literal["worker", "global"]
"""m: a number of examples, all of a worker's, or the whole batch."""


class MethodLike(Protocol):
    """What `TrainStep` asks of a method. `Method` is one, and so are the configurations of a search space."""

    @property
    def group_size(self) -> GroupSize:
        """Examples that share one perturbation."""

    def rho_at(self, progress: float) -> float:
        """The radius after a share `progress` in [0, 1] of the training; 0 is the base optimizer's step."""

    def make_rule(self, parameters: Sequence[Tensor], seed: int) -> Rule:
        """The rule, for these parameters.

        Raises:
            ValueError: an option does not fit.
        """


class Method:
    """A rule with its options.

    Example:
        >>> Method(SAMRule, rho=lambda progress: 0.1 * (1 - progress), p=math.inf)

    Args:
        rule: a class of `samtune.sam.rules`, or a subclass of `Rule`.
        rho: the radius, or a function that gives it from the share of the training that is done.
        m: examples that share one perturbation.
        options: of the rule.
    """

    def __init__(
        self,
        rule: Callable[..., Rule],
        *,
        rho: float | Callable[[float], float] = 0.05,
        m: GroupSize = "worker",
        **options: Any,
    ) -> None:
        self.rule, self.rho, self.group_size, self.options = rule, rho, m, options

    def rho_at(self, progress: float) -> float:
        """The radius after a share `progress` in [0, 1] of the training."""
        return self.rho(progress) if callable(self.rho) else self.rho

    def make_rule(self, parameters: Sequence[Tensor], seed: int) -> Rule:
        """The rule, for these parameters."""
        return self.rule(parameters, seed, **self.options)
