"""Where a method looks for sharpness: the parameters that are not perturbed keep ε = 0 and do not enter its norm."""

from __future__ import annotations

import pytest
import torch
from helpers.reference import Reference, flat_weights, mean_over_groups, update_direction
from helpers.sam_training import BATCH_SIZE, batch, examples, make_network
from pydantic import ValidationError
from test_contract import METHODS, PERTURBED
from torch import nn
from torch.testing import assert_close

from samtune.config.method import GSAMConfig, SAMConfig
from samtune.sam import TrainStep
from samtune.sam.where import perturbed_parameters


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(1, 2, 3), nn.BatchNorm1d(2), nn.GroupNorm(1, 2), nn.Linear(3, 4), nn.LayerNorm(4))


def names_chosen(perturb):
    names = [name for name, _ in network().named_parameters()]
    model = network()
    chosen = perturbed_parameters(model, list(model.parameters()), perturb)
    return names if chosen is None else [names[index] for index in chosen]


@pytest.mark.parametrize(
    ("perturb", "expected"),
    [
        ("all", [f"{i}.{kind}" for i in range(5) for kind in ("weight", "bias")]),
        ("no_norm_bias", ["0.weight", "3.weight"]),
        ("only_norm", ["1.weight", "1.bias", "2.weight", "2.bias", "4.weight", "4.bias"]),
        (r"^[03]\.", ["0.weight", "0.bias", "3.weight", "3.bias"]),
    ],
)
def test_which_parameters(perturb, expected):
    assert names_chosen(perturb) == expected


def mask(model, part):
    """1 for the parameters whose name contains `part`, in the order of the flat weights."""
    return torch.cat([torch.full((p.numel(),), float(part in n)).double() for n, p in model.named_parameters()])


@pytest.mark.parametrize("m", [4, 16])
def test_sam_in_closed_form(m):
    """ε̂ = rho·Mg/‖Mg‖, the share ∇L(w + ε̂) of all parameters."""
    kept = mask(make_network(), "layers.2")

    def share(reference, w):
        g = reference.gradient(w) * kept
        return reference.gradient(w + 0.5 * g / g.norm())

    found = update_direction(SAMConfig(rho=0.5, m=m, perturb=r"layers\.2"))
    assert_close(found, mean_over_groups(m, share), rtol=0, atol=1e-13)


def test_gsam_decomposes_the_whole_gradient():
    kept = mask(make_network(), "weight")

    def share(reference, w):
        g = reference.gradient(w)
        g_p = reference.gradient(w + 0.5 * kept * g / (kept * g).norm())
        return g_p - 0.3 * (g - (g @ g_p) / (g_p @ g_p) * g_p)

    found = update_direction(GSAMConfig(rho=0.5, alpha=0.3, perturb="no_norm_bias"))
    assert_close(found, mean_over_groups(BATCH_SIZE, share), rtol=0, atol=1e-13)


def test_second_order_is_autograd_through_the_masked_perturbation():
    model = make_network()
    kept, w = mask(model, "layers.0"), flat_weights(model).requires_grad_()
    reference = Reference(model, *batch(0))
    g = torch.autograd.grad(reference.loss(w), w, create_graph=True)[0] * kept
    (expected,) = torch.autograd.grad(reference.loss(w + 0.3 * g / g.norm()), w)
    found = update_direction(SAMConfig(rho=0.3, second_order=True, perturb=r"layers\.0"))
    assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", PERTURBED)
def test_every_method_leaves_the_others_where_they_are(name):
    model = make_network()
    weight, bias = model.layers[0].weight, model.layers[0].bias
    method = METHODS[name].model_copy(update={"perturb": "no_norm_bias", "m": 8})
    step = TrainStep(
        model, nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), method, batch_size=16
    )
    step.begin_epoch(0, 1, steps_per_epoch=4, examples=examples)
    moved = {"weight": False, "bias": False}
    origin: list[torch.Tensor] = []

    def look(*_):
        moved["weight"] |= not torch.equal(weight, origin[0])
        moved["bias"] |= not torch.equal(bias, origin[1])

    model.register_forward_pre_hook(look)
    for index in range(4):
        origin[:] = [weight.detach().clone(), bias.detach().clone()]
        step(*batch(index))
        assert not torch.equal(bias, origin[1])  # but it is trained
    assert not moved["bias"]
    assert moved["weight"] or name == "sam_1"  # whose single coordinate may be another layer's


def test_a_pattern_that_matches_nothing_and_one_that_is_none():
    model = make_network()
    with pytest.raises(ValueError, match=r"perturb must match a trained parameter \(got 'conv'; there are layers"):
        TrainStep(
            model,
            nn.CrossEntropyLoss(),
            torch.optim.SGD(model.parameters(), lr=0.1),
            SAMConfig(perturb="conv"),
            batch_size=BATCH_SIZE,
        )
    with pytest.raises(ValidationError, match=r"must be all, no_norm_bias, only_norm or a regular expression"):
        SAMConfig(perturb="(")
