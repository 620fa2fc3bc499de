"""USAM, WSAM, F-SAM, VaSSO and random weight perturbation against their formulas in plain float64 autograd."""

from __future__ import annotations

import pytest
import torch
from helpers.reference import Reference, flat_weights, mean_over_groups, update_direction
from helpers.sam_training import BATCH_SIZE, batch, make_network
from torch import nn
from torch.testing import assert_close

from samtune.config.method import FSAMConfig, RWPConfig, SAMConfig, USAMConfig, VaSSOConfig, WSAMConfig
from samtune.sam import TrainStep


def close(found, expected):
    assert_close(found, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("m", [4, 16])
def test_usam_is_not_normalized(m):
    def share(reference, w):
        return reference.gradient(w + 0.5 * reference.gradient(w))

    close(update_direction(USAMConfig(rho=0.5, m=m)), mean_over_groups(m, share))


@pytest.mark.parametrize("m", [4, 16])
def test_wsam(m):
    """γ = 0.75: α = 3, the share -2·g + 3·g_p."""

    def share(reference, w):
        g = reference.gradient(w)
        return -2.0 * g + 3.0 * reference.gradient(w + 0.5 * g / g.norm())

    close(update_direction(WSAMConfig(rho=0.5, gamma=0.75, m=m)), mean_over_groups(m, share))
    close(update_direction(WSAMConfig(rho=0.5, gamma=0.5, m=m)), update_direction(SAMConfig(rho=0.5, m=m)))


def steps_of(m, direction, decay):
    """Three steps of SGD with lr 0.1 by hand; `direction` makes the ascent of a group's gradient and the mean."""
    model = make_network()
    w, mean = flat_weights(model), None
    for index in range(3):
        inputs, targets = batch(index)
        parts = [Reference(model, inputs[i : i + m], targets[i : i + m]) for i in range(0, BATCH_SIZE, m)]
        gradients = [part.gradient(w) for part in parts]
        shares = []
        for part, g in zip(parts, gradients, strict=True):
            d = g if mean is None else direction(g, mean)
            shares.append(part.gradient(w + 0.5 * d / d.norm()))
        g = torch.stack(gradients).mean(dim=0)
        mean = g if mean is None else decay * mean + (1 - decay) * g
        w = w - 0.1 * torch.stack(shares).mean(dim=0)
    return w


def trained(method):
    model = make_network()
    step = TrainStep(
        model, nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), lr=0.1), method, batch_size=BATCH_SIZE
    )
    for index in range(3):
        step(*batch(index))
    return flat_weights(model)


@pytest.mark.parametrize("m", [4, 16])
def test_fsam_takes_the_mean_of_earlier_gradients_off(m):
    expected = steps_of(m, lambda g, mean: g - 0.8 * mean, 0.6)
    close(trained(FSAMConfig(rho=0.5, sigma=0.8, decay=0.6, m=m)), expected)
    close(trained(FSAMConfig(rho=0.5, sigma=0.0, m=m)), trained(SAMConfig(rho=0.5, m=m)))


@pytest.mark.parametrize("m", [4, 16])
def test_vasso_follows_the_mean_of_earlier_gradients_and_this_one(m):
    expected = steps_of(m, lambda g, mean: 0.7 * mean + 0.3 * g, 0.7)
    close(trained(VaSSOConfig(rho=0.5, theta=0.3, m=m)), expected)
    close(trained(VaSSOConfig(rho=0.5, theta=1.0, m=m)), trained(SAMConfig(rho=0.5, m=m)))


def test_rwp_is_the_gradient_of_the_smoothed_loss():
    """L = ½ Σ h_i w_i² + ¼ Σ w_i⁴: E[∇L(w + rho·z)] = h·w + w³ + 3·rho²·w. 4,000 draws, 5 errors."""
    h, w = torch.tensor([1.0, 2.0, 5.0]).double(), torch.tensor([0.5, -1.0, 2.0]).double()
    model = nn.Linear(3, 1, bias=False).double()

    def loss(outputs, targets):
        weight = model.weight[0]
        return (0.5 * h * weight**2 + 0.25 * weight**4).sum() + 0.0 * outputs.sum()

    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    step = TrainStep(model, loss, optimizer, RWPConfig(rho=0.3), batch_size=1)
    found = []
    for _ in range(4000):
        with torch.no_grad():
            model.weight.copy_(w)
        step(torch.zeros(1, 3).double(), torch.zeros(1).double())
        found.append(w - model.weight.detach()[0])
    draws = torch.stack(found)
    error = draws.std(dim=0) / len(draws) ** 0.5
    assert ((draws.mean(dim=0) - (h * w + w**3 + 3 * 0.3**2 * w)).abs() < 5 * error).all()
    assert (error < 0.1).all()


def test_rwp_mixes_the_gradient_at_w_in():
    """The share is linear in λ at the same noise: d(0.25) = 0.25·d(1) + 0.75·∇L(w)."""
    plain = mean_over_groups(16, lambda reference, w: reference.gradient(w))
    alone = update_direction(RWPConfig(rho=0.5))
    assert (alone - plain).norm() > 0.01
    close(update_direction(RWPConfig(rho=0.5, mix=0.25)), 0.25 * alone + 0.75 * plain)
