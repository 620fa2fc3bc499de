"""Compiled models: one graph for all steps, since SAM registers no global hook and switches no flag of a layer."""

from __future__ import annotations

import pytest
import torch
from helpers.sam_training import BATCH_SIZE, batch, make_network
from torch import nn

from samtune.config.method import SAMConfig
from samtune.sam import SAM, TrainStep


@pytest.fixture
def backend():
    torch.compiler.reset()
    yield Counting()
    torch.compiler.reset()


class Counting:
    """A backend that runs the graph as it is, and counts graphs and calls."""

    def __init__(self) -> None:
        self.graphs = self.calls = 0

    def __call__(self, graph, inputs):
        self.graphs += 1

        def run(*arguments):
            self.calls += 1
            return graph(*arguments)

        return run


def compiled(model, how, backend):
    if how == "in_place":
        model.compile(backend=backend)
        return model
    if how == "function":
        return torch.compile(lambda inputs: model(inputs), backend=backend)
    return torch.compile(model, backend=backend)


@pytest.mark.parametrize("how", ["module", "in_place", "function"])
def test_the_optimizer_compiles_one_graph_and_runs_it_twice_per_step(how, backend):
    model, plain = make_network(batch_norm=True), make_network(batch_norm=True)
    network = compiled(model, how, backend)
    sam, reference = (SAM(m.parameters(), torch.optim.SGD, rho=0.1, lr=0.1) for m in (model, plain))
    for index in range(6):
        for optimizer, callable_ in ((sam, network), (reference, plain)):

            def closure(optimizer=optimizer, callable_=callable_, index=index):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(callable_(batch(index)[0]), batch(index)[1])
                loss.backward()
                return loss

            optimizer.step(closure)
        assert backend.calls == 2 * (index + 1)
    assert backend.graphs == 1
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=1e-12)


def test_the_train_step_compiles_one_graph(backend):
    model = make_network(batch_norm=True)
    model.compile(backend=backend)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = TrainStep(model, nn.CrossEntropyLoss(), optimizer, SAMConfig(rho=0.1), batch_size=BATCH_SIZE)
    for index in range(4):
        step(*batch(index))
    assert (backend.graphs, backend.calls) == (1, 8)
    assert int(model.layers[1].num_batches_tracked) == 4
