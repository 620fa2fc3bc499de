"""The trainable weights, moved to perturbed points and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from samtune.sam import vectors


class Weights:
    """Parameters that are perturbed in place and restored bit for bit.

    Subtracting ε̂ again would drift by a rounding error in each step, and apart on each worker; so w is copied before
    the first perturbation of a step and copied back. The storage of the parameters never changes.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = list(parameters)
        self.origin: list[Tensor] = []
        """w, valid inside `held` once a perturbation was made. Allocated by the first one and kept."""
        self.moved = False
        """Whether the parameters are perturbed."""
        self._saved = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """The parameters are at w again when this ends, whatever happened inside."""
        try:
            yield
        finally:
            self.restore()
            self.forget()

    @torch.no_grad()
    def perturb(self, perturbation: Sequence[Tensor]) -> None:
        """Moves to w + ε, from wherever the parameters are."""
        if not self._saved:
            if not self.origin:
                self.origin = [torch.empty_like(parameter) for parameter in self.parameters]
            vectors.copy_(self.origin, self.parameters)
            self._saved = True
        self.restore()
        self.moved = True
        vectors.add_(self.parameters, perturbation)

    def forget(self) -> None:
        """The parameters are at a new w: what was saved is not valid any more."""
        assert not self.moved
        self._saved = False

    @torch.no_grad()
    def restore(self) -> None:
        """Moves back to w."""
        if self.moved:
            vectors.copy_(self.parameters, self.origin)
            self.moved = False
