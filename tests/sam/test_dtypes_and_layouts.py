"""Parameters of several dtypes, and sparse gradients, with every method."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.reference import flat_weights
from test_contract import METHODS
from torch import nn
from torch.testing import assert_close

from samtune.config.method import SAMConfig
from samtune.sam import SAM, TrainStep

PS = [1.0, 1.5, 2.0, 3.0, math.inf]


@pytest.mark.parametrize("first", [torch.float32, torch.float16])
def test_an_overflow_that_is_only_ours_skips_no_step(first):
    """Gradients of 2,000 in float16: finite, but their squares are not; in either order of the parameters."""
    parameters = {
        torch.float32: nn.Parameter(torch.ones(3)),
        torch.float16: nn.Parameter(torch.zeros(4096, dtype=torch.float16)),
    }
    ordered = sorted(parameters.values(), key=lambda parameter: parameter.dtype != first)
    wide, narrow = parameters[torch.float32], parameters[torch.float16]
    sam = SAM(ordered, torch.optim.SGD, rho=0.05, lr=1e-6)
    moved = []

    def closure():
        sam.zero_grad()
        moved.append(math.hypot(float((wide - 1).detach().norm()), float(narrow.detach().float().norm())))
        loss = wide.sum() + (narrow * 2000).float().sum()
        loss.backward()
        return loss

    sam.step(closure)
    assert moved[1] == pytest.approx(0.05, rel=1e-3)
    assert torch.equal(wide, torch.full((3,), 1 - 1e-6))


def test_a_gradient_of_1e20_skips_no_step():
    model = nn.Linear(10, 1, bias=False)
    nn.init.zeros_(model.weight)
    step = TrainStep(
        model,
        lambda outputs, targets: 1e20 * outputs.sum(),
        torch.optim.SGD(model.parameters(), lr=1e-20),
        SAMConfig(),
        batch_size=1,
    )
    step(torch.ones(1, 10), torch.zeros(1))
    assert_close(model.weight.detach(), torch.full((1, 10), -1.0))
    assert step.epoch_metrics()["skipped_steps"] == 0


class Words(nn.Module):
    """An embedding of which a batch uses a part."""

    def __init__(self, sparse: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = nn.Embedding(10, 4, sparse=sparse), nn.Linear(12, 5)

    def forward(self, words):
        return self.head(self.embedding(words).flatten(1).tanh())


def words(index, count=8):
    generator = torch.Generator().manual_seed(index)
    return torch.randint(0, 8, (count, 3), generator=generator), torch.randint(0, 5, (count,), generator=generator)


@pytest.mark.parametrize("name", METHODS)
def test_the_train_step_with_sparse_gradients_is_that_with_dense_ones(name):
    def train(sparse):
        model = Words(sparse).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        method = METHODS[name].model_copy(update={} if name == "sgd" else {"m": 4})
        step = TrainStep(model, nn.CrossEntropyLoss(), optimizer, method, batch_size=8, clip_norm=1.0, seed=1)
        step.begin_epoch(0, 1, steps_per_epoch=3, examples=lambda count: words(-1, count))
        for index in range(3):
            step(*words(index))
        return flat_weights(model)

    assert_close(train(True), train(False), rtol=0, atol=1e-12)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("p", PS)
def test_the_optimizer_with_sparse_gradients_is_that_with_dense_ones(p, adaptive):
    if adaptive and p not in (2.0, math.inf):
        pytest.skip("ASAM has two norms")

    def train(sparse):
        model = Words(sparse).double()
        sam = SAM(model.parameters(), torch.optim.SGD, rho=0.1, p=p, adaptive=adaptive, lr=0.1)
        for index in range(3):

            def closure(index=index):
                sam.zero_grad()
                loss = nn.functional.cross_entropy(model(words(index)[0]), words(index)[1])
                loss.backward()
                return loss

            sam.step(closure)
        return flat_weights(model)

    assert_close(train(True), train(False), rtol=0, atol=1e-12)
