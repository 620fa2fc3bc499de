"""Activation checkpoints, which compute forwards anew in the backward: the same step, or one clear line."""

from __future__ import annotations

import pytest
import torch
from helpers.problems import examples as batches
from helpers.reference import flat_weights
from helpers.sam_training import BATCH_SIZE, batch, examples
from test_contract import METHODS
from torch import nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from samtune.errors import UsageError
from samtune.sam import SAM, TrainStep
from samtune.sharpness import lambda_max, m_sharpness, trace


class Checkpointed(nn.Module):
    """Its first layers are computed anew in the backward, as `kind` (use_reentrant) says; None: they are not."""

    def __init__(self, kind: bool | None, inputs: int = 6) -> None:
        super().__init__()
        torch.manual_seed(7)
        first = [nn.Linear(inputs, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2)]
        self.stem, self.first, self.last = nn.Linear(inputs, inputs), nn.Sequential(*first), nn.Linear(8, 3)
        self.kind = kind

    def forward(self, inputs):
        hidden = self.stem(inputs)
        hidden = self.first(hidden) if self.kind is None else checkpoint(self.first, hidden, use_reentrant=self.kind)
        return self.last(hidden)


def train(method, kind):
    model = Checkpointed(kind).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    step = TrainStep(model, nn.CrossEntropyLoss(), optimizer, method, batch_size=BATCH_SIZE, seed=3)
    step.begin_epoch(0, 1, steps_per_epoch=4, examples=examples)
    for index in range(4):
        step(*batch(index))
    return torch.cat([flat_weights(model), *(b.flatten().double() for b in model.buffers())])


@pytest.mark.parametrize("name", METHODS)
def test_the_train_step_is_the_same_with_them(name):
    """Weights and running statistics: a forward that is computed anew does not count again."""
    method = METHODS[name].model_copy(update={"m": 4} if name != "sgd" else {})
    assert_close(train(method, False), train(method, None), rtol=0, atol=1e-12)


def test_the_reentrant_kind_is_refused_by_the_train_step():
    with pytest.raises(ValueError, match=r"use_reentrant=True .*: use .*use_reentrant=False"):
        train(METHODS["sam"], True)


@pytest.mark.parametrize("kind", [True, False])
def test_the_optimizer_takes_both_kinds(kind):
    """Its closure calls backward, which the reentrant kind can do; BatchNorm is torch's matter there, not compared."""

    def train_optimizer(kind):
        torch.manual_seed(3)
        model = Checkpointed(kind).double()
        model.first[3].p = 0.0
        sam = SAM(model.parameters(), torch.optim.SGD, rho=0.1, lr=0.1)

        def closure():
            sam.zero_grad()
            loss = nn.functional.cross_entropy(model(batch(0)[0]), batch(0)[1])
            loss.backward()
            return loss

        for _ in range(3):
            sam.step(closure)
        return flat_weights(model)

    assert_close(train_optimizer(kind), train_optimizer(None), rtol=0, atol=1e-12)


@pytest.mark.parametrize("measure", [m_sharpness, lambda_max, trace])
def test_sharpness_is_the_same_with_them_or_refused(measure):
    def measured(kind):
        return measure(Checkpointed(kind, inputs=4).double(), nn.CrossEntropyLoss(), batches()).value

    assert measured(False) == pytest.approx(measured(None), rel=1e-9)
    with pytest.raises(UsageError, match="use_reentrant=False"):
        measured(True)
