"""What a training method does with one m-group, and the base optimizer as the simplest case."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

if TYPE_CHECKING:
    from samtune.sam.m_group import MGroup
    from samtune.sam.train_step import Examples, TrainStep


class Rule:
    """How the loss of one m-group becomes its share of the update direction. This one is the gradient at w.

    The base of a method of your own:

        class HalfWay(samtune.sam.Rule):
            has_ascent_gradient = True

            def __init__(self, parameters, seed, *, alpha=0.5):
                super().__init__(parameters, seed)
                self.alpha = alpha

            def __call__(self, group):
                gradient = group.gradient()  # one tensor per parameter
                group.gradient_norm = torch.cat([g.flatten() for g in gradient]).norm()
                group.perturb([group.rho / group.gradient_norm * g for g in self.limit(gradient)])
                group.contribute(gradient, 1 - self.alpha)
                group.descend(self.alpha)  # the last forward and backward

    In a space it is `method: {name: "my.py:HalfWay", alpha: 0.3}`, in Python `Method(HalfWay, rho=0.1, alpha=0.3)`.
    Vectors are lists of tensors, one per parameter, on whose device a rule should keep its numbers. A rule ends in
    `group.descend()`, which runs the group's last backward through DistributedDataParallel, so that the all-reduce
    overlaps with it. A rule whose share is only known after the last backward sets `ends_in_backward = False` and hands
    it over with `group.contribute()`. Weights are moved with `group.perturb()` alone, and restored by the step. What a
    rule keeps between steps is in `state_dict`, and is the same on all workers. `samtune.testing.MethodContract` tests
    all of this.

    A subclass adds its options as keyword arguments and hands the first two on.

    Args:
        parameters: w, the trainable parameters.
        seed: of the trial.
    """

    name = "sgd"
    """What messages call the method."""
    p: float = 2.0
    """The norm in which the metric perturbation_norm measures ε̂."""
    ends_in_backward = True
    options_class: ClassVar[type | None] = None
    """Checks the options before a trial: a class, e.g. a dataclass, that takes them as keyword arguments and raises
    ValueError where one is wrong. The rule gets what the object holds. None: any options that the constructor takes."""
    state_vectors: ClassVar[tuple[str, ...]] = ()
    """What in `state_dict` is a vector, one tensor per parameter."""
    has_ascent_gradient = False
    """Whether groups know the gradient at w; if not, the metric gradient_norm is that of the update direction."""

    def __init__(self, parameters: Sequence[Tensor], seed: int) -> None:
        self.parameters = list(parameters)
        self.seed = seed
        self.names: Sequence[str] = ["weight"] * len(self.parameters)
        """Of the parameters, as `TrainStep`'s model calls them."""
        self.perturbed: list[int] | None = None
        """Positions of the parameters that are perturbed, set by `TrainStep`; None: all."""

    def check(self, optimizer: Optimizer) -> None:
        """Raises ValueError if the method does not fit the base optimizer."""

    def check_shards(self) -> None:
        """Raises ValueError if the method cannot work on parameters of which each worker has a part."""

    def __call__(self, group: MGroup) -> None:
        """Adds the group's share to the update direction. The group restores the weights afterwards."""
        group.descend()

    def chosen(self, vector: Sequence[Tensor]) -> list[Tensor]:
        """The tensors of a vector that belong to parameters that are perturbed."""
        return list(vector) if self.perturbed is None else [vector[index] for index in self.perturbed]

    def filled(self, chosen: Sequence[Tensor]) -> list[Tensor]:
        """The whole vector of which `chosen` are the tensors of the perturbed parameters, with 0 for the others."""
        if self.perturbed is None:
            return list(chosen)
        vector = [torch.zeros_like(parameter) for parameter in self.parameters]
        for index, tensor in zip(self.perturbed, chosen, strict=True):
            vector[index] = tensor
        return vector

    def limit(self, vector: Sequence[Tensor]) -> list[Tensor]:
        """A vector with 0 for the parameters that are not perturbed: what an ascent direction is made of."""
        return list(vector) if self.perturbed is None else self.filled(self.chosen(vector))

    def begin_epoch(self, step: TrainStep, epoch: int, num_epochs: int, examples: Examples | None) -> None:
        """Refreshes what the rule keeps over epochs. `TrainStep.begin_epoch` says what the arguments are."""

    def finish(self, step: TrainStep, gradients: Sequence[Tensor | None]) -> None:
        """Changes the averaged gradient in place, before clipping; the same on every rank."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `state_dict`."""

    def sharpness(self, losses: Sequence[Tensor]) -> Tensor | None:
        """The rise of the loss, from the losses of the group's forwards in order; None where none was measured."""
        return None


class AdamWRule(Rule):
    """The gradient at w, for AdamW only."""

    name = "adamw"

    def check(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, torch.optim.AdamW):
            raise ValueError(f"method adamw needs the optimizer adamw (got {type(optimizer).__name__})")
