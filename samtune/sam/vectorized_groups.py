"""The m-groups of a step side by side: one stacked forward and backward for all of them, instead of one after another.

A rule runs for each group as it is; only the passes are shared. The first gradient that it asks for is taken for all
groups at once, and `descend` waits until the rules of all groups have run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from samtune.sam import vectors
from samtune.sam.gradients import gradients_of
from samtune.sam.m_group import MGroup
from samtune.sam.rules.averaged import FSAMRule, VaSSORule
from samtune.sam.rules.base import Rule
from samtune.sam.rules.efficient import ESAMRule
from samtune.sam.rules.sam import ASAMRule, FisherSAMRule, SAMRule
from samtune.sam.rules.sparse import DynamicMaskRule, FisherMaskRule
from samtune.sam.rules.variants import LookSAMRule, MomentumSAMRule, RWPRule, USAMRule, WSAMRule

if TYPE_CHECKING:
    from samtune.sam.stacked_model import StackedModel
    from samtune.sam.train_step import TrainStep

_FITTING = (
    *(SAMRule, ASAMRule, USAMRule, WSAMRule, FisherSAMRule, FSAMRule, VaSSORule, RWPRule),
    *(LookSAMRule, MomentumSAMRule, FisherMaskRule, DynamicMaskRule, ESAMRule),
)


def fits(rule: Rule) -> bool:
    """Whether each group takes at most one gradient, at w, then perturbs and descends.

    Only these very classes: what a subclass of the user's does is not known.
    """
    if type(rule) not in _FITTING:
        return False
    if isinstance(rule, SAMRule) and (rule.ascent_steps > 1 or rule.second_order):
        return False
    return not (isinstance(rule, ESAMRule) and rule.gamma < 1)


class StackedGroups:
    """The groups of one call of a step, as many as `inputs` has rows in its first dimension.

    Args:
        inputs, targets: [K, m, ...].
        first: index of the first group's forward among those of this worker's step, accumulated batches included.
        rho: radius at this step.
    """

    def __init__(
        self, step: TrainStep, model: StackedModel, inputs: Tensor, targets: Tensor, *, first: int, rho: float
    ) -> None:
        self.has_run = False
        """Whether a forward has returned."""
        self._step, self._model, self._first = step, model, first
        self._inputs, self._targets = inputs, targets
        self._gradients: list[list[Tensor]] | None = None
        self.groups = [
            StackedGroup(self, place, step, x, y, index=first + place, rho=rho)
            for place, (x, y) in enumerate(zip(inputs, targets, strict=True))
        ]

    def run(self, rule: Rule) -> None:
        """Adds the shares of all groups to the update direction."""
        for group in self.groups:
            rule(group)
        self._descend()

    def gradient(self, place: int) -> list[Tensor]:
        """∇L at w of a group, times the loss scale; one computation for all groups."""
        if self._gradients is None:
            step = self._step
            count = len(self.groups)
            weights = [p.detach().expand(count, *p.shape).requires_grad_() for p in step.parameters]
            gradients = self._backward(weights, step.scaled(self._forward(weights).sum()))
            self._gradients = vectors.unstacked(gradients)
        return self._gradients[place]

    def _descend(self) -> None:
        step = self._step
        with torch.no_grad():
            weights = self._perturbed_weights()
        losses = self._forward([tensor.requires_grad_() for tensor in weights])
        scale = self.groups[0].scale
        assert all(group.scale == scale for group in self.groups)
        gradients = self._backward(weights, step.scaled(losses.sum() * (scale / step.num_forwards)))
        step.add_to_gradients([gradient.sum(dim=0) for gradient in gradients])

    def _perturbed_weights(self) -> list[Tensor]:
        count, parameters = len(self.groups), self._step.parameters
        perturbations = [group.perturbation for group in self.groups]
        known = [perturbation for perturbation in perturbations if perturbation is not None]
        if not known:
            return [parameter.detach().expand(count, *parameter.shape) for parameter in parameters]
        assert len(known) == count, "all groups of a step perturb, or none"
        return [p.detach() + shift for p, shift in zip(parameters, vectors.stacked(known), strict=True)]

    def _forward(self, weights: Sequence[Tensor]) -> Tensor:
        step = self._step
        with step.statistics.update(self._first, step.num_forwards, len(self.groups)), step.autocast():
            losses, outputs, statistics = self._model.forward(weights, self._inputs, self._targets)
        if not self.has_run:
            self._model.keep_statistics(statistics)
        self.has_run = True
        for group, loss, output in zip(self.groups, losses.detach(), outputs.detach(), strict=True):
            group.note(loss, output)
        return losses

    def _backward(self, weights: Sequence[Tensor], loss: Tensor) -> list[Tensor]:
        found = gradients_of(loss, weights)
        self._step.note_used(found)
        return [
            torch.zeros_like(w) if g is None else g.contiguous()  # the rule writes into each group's part
            for g, w in zip(found, weights, strict=True)
        ]


class StackedGroup(MGroup):
    """One of several groups whose passes are shared. Its weights stay at w: what it perturbs is a copy."""

    scale: float
    """Of the group's share, once the rule has run."""

    def __init__(self, peers: StackedGroups, place: int, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._peers, self._place = peers, place

    def gradient(self, *, shared: bool = True, only: Sequence[int] | None = None) -> list[Tensor]:
        """∇L_S at w; once, since the rule may overwrite it."""
        gradients = self._peers.gradient(self._place)
        if only is not None:
            gradients = [g if index in only else torch.zeros_like(g) for index, g in enumerate(gradients)]
        self._step.count_pass()
        self._unscale_(gradients)
        return gradients

    def descend(
        self,
        scale: float | Tensor | Callable[[Tensor], Tensor] = 1.0,
        *,
        penalty: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Says that the group's share is scale · ∇L_S at w + ε̂."""
        assert penalty is None
        assert isinstance(scale, float)
        self.has_share, self.scale = True, scale
        self._step.count_pass()

    def note(self, loss: Tensor, outputs: Tensor) -> None:
        """Of a forward of all groups, this group's."""
        self._note_forward(loss, outputs)

    def _move(self, perturbation: Sequence[Tensor], scale: Tensor | float | None, *, is_spent: bool) -> None:
        pass

    def _loss(self, *args: object, **options: object) -> Tensor:
        raise AssertionError("a forward of one group alone: the rule does not fit")
