"""ASAM, SSAM-F, SSAM-D, GSAM, LookSAM and Momentum-SAM against their papers' formulas in plain float64 autograd."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.reference import Reference, flat_weights, groups, mean_over_groups, update_direction
from helpers.sam_training import BATCH_SIZE, batch, examples, make_network
from torch import nn
from torch.testing import assert_close

from samtune.config.method import (
    ASAMConfig,
    BaseOptimizerConfig,
    GSAMConfig,
    LookSAMConfig,
    MomentumSAMConfig,
    SAMConfig,
    SSAMDConfig,
    SSAMFConfig,
)
from samtune.sam import TrainStep
from samtune.sam.rules.sparse import evaluating


def close(found, expected):
    assert_close(found, expected, rtol=1e-10, atol=1e-13)


def make(model, method, *, lr=0.1, momentum=0.0, **options):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    return TrainStep(model, nn.CrossEntropyLoss(), optimizer, method, batch_size=BATCH_SIZE, **options)


# -- ASAM ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [4, 16])
@pytest.mark.parametrize("p", [2.0, math.inf])
def test_asam(p, m):
    def share(reference, w):
        g, t = reference.gradient(w), w.abs() + 0.01
        e = 0.3 * t**2 * g / (t * g).norm() if p == 2 else 0.3 * t * g.sign()
        return reference.gradient(w + e)

    close(update_direction(ASAMConfig(rho=0.3, p=p, m=m)), mean_over_groups(m, share))


@pytest.mark.parametrize("p", [2.0, math.inf])
def test_asam_does_not_see_a_rescaling_of_two_relu_layers(p):
    """The first layer times c, the second by c: the same function, and with eta = 0 the same perturbed loss."""

    def sharpness(method, c):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)).double()
        with torch.no_grad():
            model[0].weight.mul_(c)
            model[2].weight.div_(c)
        step = make(model, method)
        step(*batch(0))
        return step.epoch_metrics()["sharpness"]

    adaptive = ASAMConfig(rho=0.3, eta=0.0, p=p)
    assert sharpness(adaptive, 1.0) > 1e-3
    assert sharpness(adaptive, 7.0) == pytest.approx(sharpness(adaptive, 1.0), rel=1e-9)
    plain = SAMConfig(rho=0.3, p=p)
    assert sharpness(plain, 7.0) != pytest.approx(sharpness(plain, 1.0), rel=0.1)


# -- Sparse SAM --------------------------------------------------------------------------------------------------------


def mask_of(step):
    return torch.cat([part.flatten() for part in step._method_rule.mask])


def test_ssam_f_perturbs_the_weights_with_the_largest_squared_per_example_gradients():
    model = make_network(batch_norm=True, dropout=0.3)
    step = make(model, SSAMFConfig(sparsity=0.75, num_examples=5))
    step.begin_epoch(0, 1, steps_per_epoch=1, examples=examples)
    inputs, targets = examples(5)
    w = flat_weights(model)
    with evaluating(model):
        singles = [Reference(model, inputs[i : i + 1], targets[i : i + 1]).gradient(w) for i in range(5)]
    fisher = torch.stack(singles).square().mean(dim=0)
    kept = fisher.argsort(descending=True)[: len(w) - round(0.75 * len(w))]
    expected = torch.zeros_like(w)
    expected[kept] = 1
    assert torch.equal(mask_of(step), expected)
    # not the square of the mean, which would choose others
    other = torch.stack(singles).mean(dim=0).square().argsort(descending=True)[: len(kept)]
    assert set(other.tolist()) != set(kept.tolist())
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("m", [4, 16])
def test_ssam_masks_the_perturbation_of_sam(m):
    model = make_network()
    step = make(model, SSAMFConfig(rho=0.3, num_examples=5, m=m), lr=1.0)
    step.begin_epoch(0, 1, steps_per_epoch=1, examples=examples)
    mask = mask_of(step)
    before = flat_weights(model)
    step(*batch(0))

    def share(reference, w):
        g = reference.gradient(w)
        return reference.gradient(w + 0.3 * g / g.norm() * mask)

    close(before - flat_weights(model), mean_over_groups(m, share))


def test_ssam_refreshes_every_so_many_epochs_and_needs_examples():
    model = make_network()
    step = make(model, SSAMFConfig(update_every=2, num_examples=5), lr=0.5)
    masks = []
    for epoch in range(3):
        step.begin_epoch(epoch, 3, steps_per_epoch=4, examples=examples)
        masks.append(mask_of(step))
        for index in range(4):
            step(*batch(index))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
    with pytest.raises(ValueError, match="ssam_f needs begin_epoch"):
        make(make_network(), SSAMFConfig()).begin_epoch(0, 1, steps_per_epoch=1)
    with pytest.raises(ValueError, match="ssam_d needs begin_epoch"):
        make(make_network(), SSAMDConfig())(*batch(0))


def test_ssam_d_drops_the_smallest_gradients_and_regrows_others():
    model = make_network()
    step = make(model, SSAMDConfig(sparsity=0.5, drop_rate=0.4, num_examples=8))
    step.begin_epoch(0, 4, steps_per_epoch=1, examples=examples)
    first = mask_of(step).bool()
    size = len(first)
    kept = size - round(0.5 * size)
    assert first.sum() == kept
    step.begin_epoch(1, 4, steps_per_epoch=1, examples=examples)
    second = mask_of(step).bool()
    assert second.sum() == kept
    # rate 0.4 · ½(1 + cos(π/4)) = 0.341421; of 41 weights kept 14 are exchanged
    assert kept == 41
    exchanged = 14
    slope = Reference(model, *examples(8)).gradient(flat_weights(model)).abs()
    dropped = first & ~second
    assert dropped.sum() == exchanged
    assert slope[dropped].max() <= slope[first & second].min()
    assert (second & ~first).sum() == exchanged


def test_ssam_d_exchanges_nothing_in_the_end_and_is_reproducible():
    def masks(seed):
        step = make(make_network(), SSAMDConfig(num_examples=8), seed=seed)
        found = []
        for epoch in (0, 2, 4):
            step.begin_epoch(epoch, 4, steps_per_epoch=1, examples=examples)
            found.append(mask_of(step))
        return found

    first = masks(1)
    assert torch.equal(first[1], first[2])  # the cosine is 0 at epoch 4 of 4
    assert not torch.equal(first[0], first[1])
    assert all(torch.equal(a, b) for a, b in zip(first, masks(1), strict=True))
    assert not torch.equal(first[0], masks(2)[0])


# -- GSAM --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [4, 16])
def test_gsam_subtracts_the_part_of_the_gradient_orthogonal_to_sams(m):
    def share(reference, w):
        g = reference.gradient(w)
        g_p = reference.gradient(w + 0.5 * g / g.norm())
        orthogonal = g - (g @ g_p) / (g_p @ g_p) * g_p
        assert abs(orthogonal @ g_p) < 1e-12
        return g_p - 0.3 * orthogonal

    close(update_direction(GSAMConfig(rho=0.5, alpha=0.3, m=m)), mean_over_groups(m, share))


def test_gsam_with_alpha_zero_is_sam():
    close(update_direction(GSAMConfig(rho=0.5, alpha=0.0, m=4)), update_direction(SAMConfig(rho=0.5, m=4)))


# -- LookSAM -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [4, 16])
def test_looksam_reuses_the_part_of_sams_direction_orthogonal_to_the_gradient(m):
    """k = 3: SAM, reuse, reuse, SAM. By hand with a flat weight vector."""

    def mean(function, w, index):
        inputs, targets = batch(index)
        model = make_network()
        parts = [Reference(model, inputs[i : i + m], targets[i : i + m]) for i in range(0, BATCH_SIZE, m)]
        return torch.stack([function(part, w) for part in parts]).mean(dim=0)

    def sam(reference, w):
        g = reference.gradient(w)
        return reference.gradient(w + 0.5 * g / g.norm())

    w = flat_weights(make_network())
    reused = None
    for index in range(4):
        g = mean(lambda reference, w: reference.gradient(w), w, index)
        if index % 3 == 0:
            direction = mean(sam, w, index)
            reused = direction - (direction @ g) / (g @ g) * g
            assert abs(reused @ g) < 1e-12
        else:
            direction = g + 0.7 * g.norm() / reused.norm() * reused
        w = w - 0.1 * direction

    model = make_network()
    step = make(model, LookSAMConfig(rho=0.5, k=3, alpha=0.7, m=m))
    for index in range(4):
        step(*batch(index))
    close(flat_weights(model), w)


# -- Momentum-SAM ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_momentum_sam_looks_ahead_along_the_momentum_buffer(optimizer):
    model = make_network()
    if optimizer == "sgd":
        base, key = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), "momentum_buffer"
    else:
        base, key = torch.optim.AdamW(model.parameters(), lr=0.1), "exp_avg"
    step = TrainStep(model, nn.CrossEntropyLoss(), base, MomentumSAMConfig(rho=0.4), batch_size=BATCH_SIZE)
    (reference,) = groups(make_network(), BATCH_SIZE)
    w = flat_weights(model)
    step(*batch(0))
    gradient = reference.gradient(w)  # no momentum yet: at w

    def buffer():
        return torch.cat([base.state[p][key].flatten() for p in model.parameters()])

    first = 1.0 if optimizer == "sgd" else 0.1  # AdamW: (1 - beta1) g
    close(buffer(), first * gradient)
    before, w = buffer(), flat_weights(model)
    step(*batch(0))
    perturbed = reference.gradient(w - 0.4 * before / before.norm())
    expected = 0.9 * before + (perturbed if optimizer == "sgd" else 0.1 * perturbed)
    close(buffer(), expected)


def test_momentum_sam_needs_a_momentum():
    with pytest.raises(ValueError, match="momentum_sam needs a base optimizer with momentum"):
        make(make_network(), MomentumSAMConfig(), momentum=0.0)


def test_adamw_as_a_method_needs_adamw():
    with pytest.raises(ValueError, match=r"method adamw needs the optimizer adamw \(got SGD\)"):
        make(make_network(), BaseOptimizerConfig(name="adamw"))
