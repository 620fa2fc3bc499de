"""Losses and gradients as functions of one flat weight vector, by plain autograd: what the tests compare with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from helpers.sam_training import BATCH_SIZE, batch, examples, make_network
from samtune.config.method import MethodConfig
from samtune.sam import TrainStep


class Reference:
    """L(w) of a model on some examples."""

    def __init__(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> None:
        self.model, self.inputs, self.targets = model, inputs, targets
        self.shapes = {name: p.shape for name, p in model.named_parameters()}

    def outputs(self, w: Tensor) -> Tensor:
        parts = torch.split(w, [shape.numel() for shape in self.shapes.values()])
        parameters = {name: part.view(self.shapes[name]) for name, part in zip(self.shapes, parts, strict=True)}
        outputs: Tensor = functional_call(self.model, parameters, self.inputs)
        return outputs

    def loss(self, w: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.outputs(w), self.targets)

    def accuracy(self, w: Tensor) -> float:
        return float((self.outputs(w).argmax(dim=1) == self.targets).double().mean())

    def gradient(self, w: Tensor) -> Tensor:
        w = w.detach().requires_grad_()
        return torch.autograd.grad(self.loss(w), w)[0]


def groups(model: nn.Module, m: int) -> list[Reference]:
    """One reference for each m-group of the first batch."""
    inputs, targets = batch(0)
    return [Reference(model, inputs[i : i + m], targets[i : i + m]) for i in range(0, BATCH_SIZE, m)]


def mean_over_groups(m: int, share: Callable[[Reference, Tensor], Tensor], model: nn.Module | None = None) -> Tensor:
    """The update direction that a method's share of each m-group amounts to."""
    model = make_network() if model is None else model
    w = flat_weights(model)
    return torch.stack([share(reference, w) for reference in groups(model, m)]).mean(dim=0)


def flat_weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def update_direction(
    method: MethodConfig, *, num_steps: int = 1, model: nn.Module | None = None, **options: Any
) -> Tensor:
    """The direction that TrainStep takes in its last step, seen through SGD with lr 1: w - w'."""
    model = make_network() if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    step = TrainStep(model, nn.CrossEntropyLoss(), optimizer, method, batch_size=BATCH_SIZE, **options)
    step.begin_epoch(0, 1, steps_per_epoch=num_steps, examples=examples)
    before = flat_weights(model)
    for index in range(num_steps):
        before = flat_weights(model)
        step(*batch(index))
    return before - flat_weights(model)
