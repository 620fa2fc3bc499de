"""A region of torch.autocast around everything: forwards inside it must not see weights from before they moved."""

from __future__ import annotations

import pytest
import torch
from helpers.problems import examples as measured_on
from helpers.problems import network
from helpers.reference import flat_weights
from helpers.sam_training import BATCH_SIZE, batch, make_network
from test_contract import METHODS
from torch import nn

from samtune import sharpness
from samtune.sam import SAM, TrainStep

CROSS_ENTROPY = nn.CrossEntropyLoss()


def bf16():
    return torch.autocast("cpu", torch.bfloat16)


class InItsOwnRegion(nn.Module):
    """The model with the region inside each forward: nothing is kept from one forward to the next."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs):
        with bf16():
            return self.model(inputs)


def take_steps(face, around):
    model = make_network(torch.float32)
    inner = InItsOwnRegion(model)
    base = {"lr": 0.1, "momentum": 0.9}
    used = model if around else inner
    losses = []

    def backward(index):
        inputs, targets = batch(index, dtype=torch.float32)
        loss = CROSS_ENTROPY(used(inputs).float(), targets)
        losses.append(loss.item())
        loss.backward()
        return loss

    sam = SAM(model.parameters(), torch.optim.SGD, rho=0.5, **base)
    for index in range(3):
        if face == "step":

            def closure(index=index):
                sam.zero_grad()
                return backward(index)

            sam.step(closure)
        else:
            backward(index)
            sam.first_step(zero_grad=True)
            backward(index)
            sam.second_step(zero_grad=True)
    return losses, flat_weights(model)


@pytest.mark.parametrize("face", ["step", "first_step"])
def test_the_optimizers_passes_in_one_region_are_those_of_a_region_each(face):
    with bf16():
        losses, weights = take_steps(face, around=True)
    expected, expected_weights = take_steps(face, around=False)
    assert losses == expected
    assert losses[1] > losses[0]
    assert torch.equal(weights, expected_weights)


@pytest.mark.parametrize("name", METHODS)
def test_the_train_steps_passes_in_one_region_are_those_of_a_region_each(name):
    def train(around):
        model = make_network(torch.float32)
        used = model if around else InItsOwnRegion(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        step = TrainStep(
            used, lambda o, t: CROSS_ENTROPY(o.float(), t), optimizer, METHODS[name], batch_size=BATCH_SIZE, seed=3
        )
        step.begin_epoch(0, 1, steps_per_epoch=3, examples=lambda n: batch(-1, n, torch.float32))
        for index in range(3):
            step(*batch(index, dtype=torch.float32))
        return flat_weights(model)

    with bf16():
        found = train(around=True)
    assert torch.equal(found, train(around=False))


MEASURES = {
    "lambda_max": lambda *of: sharpness.lambda_max(*of, max_steps=6).value,
    "top_eigenvalues": lambda *of: sharpness.top_eigenvalues(*of, k=2, max_steps=6).values[1],
    "spectral_density": lambda *of: sharpness.spectral_density(*of, num_probes=2, steps=5).moment(2).value,
    "trace": lambda *of: sharpness.trace(*of, max_probes=4, deflate=2).value,
    "frobenius_squared": lambda *of: sharpness.frobenius_squared(*of, max_probes=4).value,
    "m_sharpness": lambda *of: sharpness.m_sharpness(*of, m=6, rho=0.5, steps=2).value,
    "adaptive_sharpness": lambda *of: sharpness.adaptive_sharpness(*of, rho=0.5).value,
    "pac_bayes_bound": lambda *of: sharpness.pac_bayes_bound(*of, rho=0.5).largest_loss,
    "loss_along": lambda *of: sharpness.loss_along(*of, num_points=3).losses[0],
    "loss_surface": lambda *of: sharpness.loss_surface(*of, num_points=3).losses[0][1],
    "universal_measure": lambda *of: sharpness.universal_measure(*of, rho=0.5, num_directions=3).value,
    "named_universal_measure": lambda *of: sharpness.named_universal_measure("trace", *of, rho=0.5).value,
}


def test_every_measure_is_here():
    # frobenius_squared is the second half of one that is left out; one is a loss; two are of numbers, not of a network.
    left_out = {"trace_and_frobenius_squared", "zero_one_loss", "order_information", "least_order_information"}
    assert {name for name in sharpness.__all__ if name[0].islower()} - left_out == MEASURES.keys()


@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_in_a_region_is_that_of_a_model_with_the_region_inside(name):
    """Only the model and the loss are computed in low precision; the region's kept weights are not used, nor left."""
    model = network().float()
    batches = [(inputs.float(), targets) for inputs, targets in measured_on()]

    def loss(outputs, targets):
        return CROSS_ENTROPY(outputs.float(), targets)

    expected = MEASURES[name](InItsOwnRegion(model), loss, batches)
    with bf16():
        with torch.no_grad():
            model(batches[0][0])  # keeps weights without a gradient
        found = MEASURES[name](model, loss, batches)
        loss(model(batches[0][0]), batches[0][1]).backward()
    assert found == pytest.approx(expected, rel=1e-6)
    assert all(parameter.grad is not None for parameter in model.parameters())
