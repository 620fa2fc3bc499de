"""Data, a network and a trial for cross-validation in float64; a module that worker processes can import."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from samtune.config.space import SearchSpace
from samtune.config.trial import TrialSpec
from samtune.train.repeats import RepeatedRun, build_run

Examples = tuple[Tensor, Tensor]
NUM_EXAMPLES, FOLDS = 30, 3
LR = 0.5


def load(validation: bool = False, numbers: bool = False) -> tuple[Any, ...]:
    """Three classes of 12, 11 and 7 examples, or numbers."""
    generator = torch.Generator().manual_seed(3)
    classes = torch.tensor([0] * 12 + [1] * 11 + [2] * 7)[torch.randperm(NUM_EXAMPLES, generator=generator)]
    inputs = torch.randn(NUM_EXAMPLES, 4, generator=generator, dtype=torch.float64) + classes[:, None]
    train = inputs, classes.float() if numbers else classes
    return (train, train, train) if validation else (train, train)


def make_net(num_classes: int, input_shape: tuple[int, ...]) -> nn.Module:
    return nn.Sequential(nn.Linear(*input_shape, 5), nn.Tanh(), nn.Linear(5, num_classes)).double()


def make_space(*overrides: str) -> SearchSpace:
    """Full batches: the order of the examples changes nothing but the rounding."""
    settings = [
        "data={name: 'helpers.folded:load', folds: 3}",
        "model={name: 'helpers.folded:make_net'}",
        "method=sgd",
        f"training={{epochs: 3, batch_size: 20, lr: {LR}, momentum: 0, weight_decay: 0, schedule: constant}}",
        "search={}",
        "initial=[]",
        "constraints=[]",
        "resources.num_workers=1",
    ]
    return SearchSpace.from_yaml("digits.yaml", [*settings, *overrides])


def make_spec(*overrides: str) -> TrialSpec:
    return make_space(*overrides).trial({})


def train(rank: int, num_workers: int, spec: TrialSpec) -> tuple[list[dict[str, float]], list[Examples]]:
    """The records of all epochs, and the rows that each fold trains on and validates."""
    run = build_run(spec, rank=rank, num_workers=num_workers, device=torch.device("cpu"))
    assert isinstance(run, RepeatedRun)
    for epoch in range(1, spec.num_epochs + 1):
        run.train_epoch(epoch)
    return run.history, [(one.dataset.train.indices, one.dataset.validation.indices) for one in run.runs]
