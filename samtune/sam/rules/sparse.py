"""Sparse SAM (Mi et al., NeurIPS 2022): SAM's perturbation on a part of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from samtune.sam import parts, vectors
from samtune.sam.randomness import make_generator
from samtune.sam.rules.sam import SAMRule

if TYPE_CHECKING:
    from samtune.sam.m_group import MGroup
    from samtune.sam.train_step import Examples, TrainStep


class MaskRule(SAMRule):
    """ε̂ of SAM (p = 2) times a 0/1 mask, the same on all workers, refreshed at the start of an epoch.

    Args:
        sparsity: share of the weights that are not perturbed.
        update_every: epochs between two refreshes.
        num_examples: training examples that a refresh looks at.
    """

    state_vectors = ("mask",)

    def __init__(
        self,
        parameters: Sequence[Tensor],
        seed: int,
        *,
        sparsity: float = 0.5,
        update_every: int = 1,
        num_examples: int = 128,
    ) -> None:
        super().__init__(parameters, seed)
        self.update_every, self.num_examples = update_every, num_examples
        self.size = parts.num_entries(parameters)
        self.num_kept = self.size - round(sparsity * self.size)
        self.mask: list[Tensor] = []

    def __call__(self, group: MGroup) -> None:
        if not self.mask:
            raise ValueError(f"{self.name} needs begin_epoch(..., examples=...) before the first step")
        perturbation = self.limit(group.gradient())
        group.gradient_norm = vectors.dual_norm_(perturbation, group.rho)
        # A 0 in the mask would turn a NaN into NaN too: the loss stays poisoned, as it must.
        vectors.multiply_(perturbation, self.mask)
        group.perturb(perturbation)
        group.descend()

    def begin_epoch(self, step: TrainStep, epoch: int, num_epochs: int, examples: Examples | None) -> None:
        if self.mask and epoch % self.update_every:
            return
        if examples is None:
            raise ValueError(f"{self.name} needs begin_epoch(..., examples=...)")
        step.average_running_statistics()  # they enter the mask, which all workers must agree on
        kept = self.choose(step, epoch, num_epochs, examples)
        if step.layout.num_workers > 1:
            byte = kept.to(torch.uint8)
            dist.broadcast(byte, 0)  # workers of different hardware may round differently
            kept = byte.bool()
        shapes = parts.whole_shapes(self.parameters)
        flat = torch.split(kept, [shape.numel() for shape in shapes])
        mask = parts.own_part([part.view(shape) for part, shape in zip(flat, shapes, strict=True)])
        self.mask = [part.to(p.dtype) for part, p in zip(mask, self.parameters, strict=True)]

    def choose(self, step: TrainStep, epoch: int, num_epochs: int, examples: Examples) -> Tensor:
        """The weights to perturb, a boolean tensor [d] with `num_kept` entries True."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        return {"mask": [tensor.bool() for tensor in self.mask]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mask = [m.to(p.device, p.dtype) for m, p in zip(state["mask"], self.parameters, strict=False)]


class FisherMaskRule(MaskRule):
    """SSAM-F: keeps the weights with the largest diagonal of the empirical Fisher information."""

    name = "ssam_f"

    def choose(self, step: TrainStep, epoch: int, num_epochs: int, examples: Examples) -> Tensor:
        inputs, targets = examples(self.num_examples)
        fisher = [torch.zeros_like(parameter) for parameter in self.parameters]
        with evaluating(step.model):
            for index in range(len(inputs)):  # squares of per-example gradients, not the square of the mean
                gradient = _gradient(step, self.parameters, inputs[index : index + 1], targets[index : index + 1])
                vectors.add_squares_(fisher, gradient, 1.0 / len(inputs))
        return _largest(_flat(fisher), self.num_kept)


class DynamicMaskRule(MaskRule):
    """SSAM-D: starts at random; each refresh exchanges the kept weights with the smallest |gradient| for random ones.

    The share exchanged is drop_rate·½(1 + cos(π·epoch/num_epochs)).
    """

    name = "ssam_d"

    def __init__(self, parameters: Sequence[Tensor], seed: int, *, drop_rate: float = 0.5, **mask: Any) -> None:
        super().__init__(parameters, seed, **mask)
        self.drop_rate = drop_rate

    def choose(self, step: TrainStep, epoch: int, num_epochs: int, examples: Examples) -> Tensor:
        device = self.parameters[0].device
        generator = make_generator(device, "ssam_d", self.seed, epoch)
        noise = torch.rand(self.size, generator=generator, device=device)
        if not self.mask:
            return _largest(noise, self.num_kept)
        kept = _flat(self.mask).bool()
        rate = self.drop_rate * 0.5 * (1.0 + math.cos(math.pi * epoch / num_epochs))
        exchanged = min(round(rate * self.num_kept), self.size - self.num_kept)
        inputs, targets = examples(self.num_examples)
        with evaluating(step.model):
            slope = _flat(_gradient(step, self.parameters, inputs, targets)).abs()
        stay = _largest(slope.masked_fill(~kept, -1.0), self.num_kept - exchanged)
        return stay | _largest(noise.masked_fill(kept, -1.0), exchanged)


def _flat(vector: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in parts.whole(vector)])


def _largest(scores: Tensor, count: int) -> Tensor:
    """A boolean tensor that marks the `count` largest scores; of equal ones just enough."""
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    chosen[torch.topk(scores, count).indices] = True
    return chosen


def _gradient(step: TrainStep, parameters: Sequence[Tensor], inputs: Tensor, targets: Tensor) -> list[Tensor]:
    loss = step.loss_fn(step.model(inputs), targets)
    gradients = step.gradients_of(loss)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, parameters, strict=True)]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """All modules in eval mode inside: a single example has no batch statistics. Afterwards each as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
