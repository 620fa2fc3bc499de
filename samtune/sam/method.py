"""What `TrainStep` trains with: a rule, how far it looks, and which examples share a perturbation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

from torch import Tensor

from samtune.sam.rules.base import Rule
from samtune.sam.when import When

GroupSize = int | Literal["worker", "global"]
"""m: a number of examples, all of a worker's, or the whole batch."""


class MethodLike(Protocol):
    """What `TrainStep` asks of a method. `Method` is one, and so are the configurations of a search space.

    Three attributes may be missing: `when`, a `When` that says which steps are the method's, by default all; `perturb`,
    which parameters are perturbed (see `samtune.sam.where.perturbed_parameters`), by default all; and
    `rho_follows_lr`, by default False: True has `rho_at` asked with 1 - lr / peak lr instead of the progress, the peak
    being the base optimizer's learning rate when `TrainStep` was made.
    """

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
        when: which steps are the method's; the others are the base optimizer's, at one pass.
        perturb: which parameters are perturbed; see `samtune.sam.where.perturbed_parameters`.
        rho_follows_lr: hands `rho` the value 1 - lr / peak lr instead of the share of the training.
        options: of the rule.
    """

    def __init__(
        self,
        rule: Callable[..., Rule],
        *,
        rho: float | Callable[[float], float] = 0.05,
        m: GroupSize = "worker",
        when: When | None = None,
        perturb: str = "all",
        rho_follows_lr: bool = False,
        **options: Any,
    ) -> None:
        self.rule, self.rho, self.group_size, self.options = rule, rho, m, options
        self.when, self.perturb, self.rho_follows_lr = when or When(), perturb, rho_follows_lr

    def rho_at(self, progress: float) -> float:
        """The radius after a share `progress` in [0, 1] of the training."""
        return self.rho(progress) if callable(self.rho) else self.rho

    def make_rule(self, parameters: Sequence[Tensor], seed: int) -> Rule:
        """The rule, for these parameters."""
        return self.rule(parameters, seed, **checked_options(self.rule, self.options))


def checked_options(rule: Callable[..., Rule], options: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of a rule: its `options_class`, where it has one, checks and completes them.

    Raises:
        ValueError, TypeError: the class refuses them.
    """
    cls = getattr(rule, "options_class", None)
    if cls is None:
        return dict(options)
    made = cls(**options)
    if dataclasses.is_dataclass(made):
        return {field.name: getattr(made, field.name) for field in dataclasses.fields(made)}
    return dict(vars(made))
