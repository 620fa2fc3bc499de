"""Large weights move by an exchange of memory: to the same bits as in place, and in place where somebody looks on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.all_methods import METHODS
from helpers.sam_training import BATCH_SIZE, batch, make_network, train
from torch import nn

from samtune.sam import SAM, TrainStep, exchange
from samtune.sam.weights import Weights

SIZE = exchange.SMALLEST


@pytest.fixture
def of_any_size(monkeypatch):
    monkeypatch.setattr(exchange, "SMALLEST", 1)


def large(fill=0.0):
    return nn.Parameter(torch.full((SIZE,), fill))


def moved_by_exchange(parameter):
    """Whether `Weights` leaves w in its memory while the parameter is elsewhere; and whether it comes back."""
    weights, address, w = Weights([parameter]), parameter.data_ptr(), parameter.detach().clone()
    shift = torch.full_like(parameter, 0.5, requires_grad=False)
    with weights.held():
        weights.perturb([shift], 2.0)
        assert torch.equal(parameter.detach(), w + 1.0)
        exchanged = parameter.data_ptr() != address
    assert parameter.data_ptr() == address
    assert torch.equal(parameter.detach(), w)
    return exchanged


def test_a_large_parameter_of_its_own_is_exchanged_and_a_small_one_is_not():
    assert moved_by_exchange(large())
    convolution = nn.Conv2d(64, 64, 3).to(memory_format=torch.channels_last)
    assert moved_by_exchange(convolution.weight)
    assert not moved_by_exchange(convolution.bias)
    smaller = nn.Parameter(torch.zeros(SIZE - 1))
    assert not moved_by_exchange(smaller)


@pytest.mark.parametrize(
    "look",
    [
        lambda p: p.data,
        lambda p: p.detach()[3:],
        lambda p: p.detach().numpy(),
        lambda p: nn.Parameter(p.data),
        lambda p: (p * p).sum(),  # its graph has the parameter itself, not its memory
        lambda p: (p.view(2, -1) ** 2).sum(),
    ],
    ids=["data", "slice", "numpy", "tied", "graph", "graph_of_a_view"],
)
def test_whoever_has_the_memory_sees_the_weights_move(look):
    parameter = large(1.0)
    onlooker = look(parameter)
    weights = Weights([parameter])
    with weights.held():
        weights.perturb([torch.ones(SIZE)])
        if isinstance(onlooker, torch.Tensor) and onlooker.grad_fn is not None:
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                onlooker.backward()
        else:
            assert (np.asarray(onlooker.detach() if isinstance(onlooker, torch.Tensor) else onlooker) == 2.0).all()
    del onlooker
    assert moved_by_exchange(parameter)


def test_a_graph_made_at_the_perturbed_weights_cannot_be_used_at_w():
    parameter = large(1.0)
    weights = Weights([parameter])
    with weights.held():
        weights.perturb([torch.ones(SIZE)])
        loss = (parameter * parameter).sum()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_view_that_somebody_keeps_from_the_perturbed_weights_is_left_alone():
    parameter = large(1.0)
    weights = Weights([parameter])
    with weights.held():
        weights.perturb([torch.ones(SIZE)])
        kept = parameter.detach()
    with weights.held():
        weights.perturb([torch.full((SIZE,), 5.0)])
        assert (parameter == 6.0).all()
    assert (kept == 2.0).all()


@pytest.mark.parametrize("change", ["other_memory", "other_shape", "wider", "view_of_another"])
def test_a_parameter_that_was_changed_since_is_looked_at_anew(change):
    parameter = large(1.0)
    weights = Weights([parameter])
    with weights.held():
        weights.perturb([torch.ones(SIZE)])
    flat = torch.full((2 * SIZE,), 3.0)
    new = {
        "other_memory": torch.full((SIZE,), 3.0),
        "other_shape": parameter.data[: SIZE // 2],
        "wider": torch.full((SIZE,), 3.0, dtype=torch.float64),
        "view_of_another": flat[SIZE:],
    }[change]
    before = new.clone()
    parameter.data = new
    del new
    with weights.held():
        weights.perturb([torch.ones_like(before)])
        assert torch.equal(parameter.detach(), before + 1)
        assert (flat[SIZE:] == 4.0).all() == (change == "view_of_another")
    assert parameter.dtype == before.dtype
    assert torch.equal(parameter.detach(), before)


def test_parameters_that_move_either_way_come_back_from_several_points():
    alone, watched, small = large(1.0), large(2.0), nn.Parameter(torch.full((3,), 3.0))
    onlooker = watched.data
    parameters = [alone, watched, small]
    weights = Weights(parameters)
    with weights.held():
        weights.perturb([torch.ones_like(p) for p in parameters])
        weights.perturb([torch.ones(SIZE), torch.ones(3)], 4.0, only=[0, 2])
        assert [float(p.detach()[0]) for p in parameters] == [5.0, 2.0, 7.0]
        del onlooker
        weights.perturb([torch.ones(SIZE), torch.ones(SIZE)], 2.0, only=[1, 0])
        assert [float(p.detach()[0]) for p in parameters] == [3.0, 4.0, 3.0]
    assert [float(p.detach()[0]) for p in parameters] == [1.0, 2.0, 3.0]


def test_a_perturbation_of_the_wrong_shape_moves_nothing():
    parameters = [large(1.0), large(2.0), nn.Parameter(torch.ones(3))]
    weights = Weights(parameters)
    with pytest.raises(RuntimeError, match="size"), weights.held():
        weights.perturb([torch.ones(SIZE), torch.ones(5), torch.ones(3)])
    assert [float(p.detach()[0]) for p in parameters] == [1.0, 2.0, 1.0]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_ends_at_the_same_bits_as_in_place(name, monkeypatch):
    options = {"steps": 4, "dtype": torch.float32, "layers": {"batch_norm": True, "dropout": 0.2}}
    in_place = train(0, 1, METHODS[name], **options)
    monkeypatch.setattr(exchange, "SMALLEST", 1)
    exchanged = train(0, 1, METHODS[name], **options)
    assert torch.equal(exchanged["weights"], in_place["weights"])
    assert exchanged["metrics"] == in_place["metrics"]


@pytest.mark.usefixtures("of_any_size")
def test_an_error_at_the_perturbed_weights_leaves_w_in_its_memory():
    model = make_network()
    sam = SAM(model.parameters(), torch.optim.SGD, rho=0.1, lr=0.1)
    before = {name: (p.data_ptr(), p.detach().clone()) for name, p in model.named_parameters()}
    runs = []

    def closure():
        sam.zero_grad()
        loss = nn.functional.cross_entropy(model(batch(0)[0]), batch(0)[1])
        loss.backward()
        runs.append([p.data_ptr() for p in model.parameters()])
        if len(runs) == 2:
            raise KeyboardInterrupt
        return loss

    with pytest.raises(KeyboardInterrupt):
        sam.step(closure)
    assert all(there != here for here, there in zip(*runs, strict=True))
    for name, parameter in model.named_parameters():
        assert parameter.data_ptr() == before[name][0]
        assert torch.equal(parameter.detach(), before[name][1])


@pytest.mark.usefixtures("of_any_size")
def test_a_compiled_model_is_compiled_once_and_sees_the_weights_move():
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    torch.compiler.reset()
    results = []
    for compiles in (False, True):
        model = make_network()
        if compiles:
            model.compile(backend=backend)
        step = TrainStep(
            model,
            nn.CrossEntropyLoss(),
            torch.optim.SGD(model.parameters(), lr=0.1),
            METHODS["sam"],
            batch_size=BATCH_SIZE,
        )
        for index in range(3):
            step(*batch(index))
        results.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.compiler.reset()
    assert len(graphs) == 1
    assert torch.equal(*results)
