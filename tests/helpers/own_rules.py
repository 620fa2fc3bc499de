"""Rules that a user might write, right and wrong."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from samtune.sam import Rule


@dataclass
class MixOptions:
    alpha: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must lie in [0, 1] (got {self.alpha})")


class Mix(Rule):
    """(1 - alpha)·∇L(w) + alpha·∇L(w + rho·g/‖g‖)."""

    options_class = MixOptions
    has_ascent_gradient = True

    def __init__(self, parameters, seed, *, alpha):
        super().__init__(parameters, seed)
        self.alpha = alpha

    def __call__(self, group):
        gradient = group.gradient()
        group.gradient_norm = torch.cat([g.flatten() for g in gradient]).norm()
        scale = group.rho / group.gradient_norm.clamp(min=1e-30)
        group.perturb([scale * g for g in self.limit(gradient)])
        group.contribute(gradient, 1 - self.alpha)
        group.descend(self.alpha)


class Forgets(Rule):
    """Moves the weights by itself."""

    def __call__(self, group):
        with torch.no_grad():
            self.parameters[1].add_(0.1)
        group.descend()


class WrongShape(Rule):
    def __call__(self, group):
        group.perturb([torch.ones_like(g).flatten() for g in group.gradient()])
        group.descend()


class TooFew(Rule):
    ends_in_backward = False

    def __call__(self, group):
        group.contribute(group.gradient()[:1])


class NoShare(Rule):
    def __call__(self, group):
        group.perturb(group.gradient())


class Returns(Rule):
    def __call__(self, group):
        return group.gradient()


class Forgetful(Rule):
    """Keeps a mean of past gradients and leaves it out of its state."""

    ends_in_backward = False

    def __init__(self, parameters, seed):
        super().__init__(parameters, seed)
        self.mean = [torch.zeros_like(p) for p in self.parameters]

    def __call__(self, group):
        self.mean = [0.5 * m + g for m, g in zip(self.mean, group.gradient(), strict=True)]
        group.contribute(self.mean)


def not_a_rule(parameters, seed):
    return "rule"
