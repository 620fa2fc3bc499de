"""AE-SAM, ESAM, Fisher SAM and MESA against their formulas, by plain autograd in float64."""

from __future__ import annotations

import pytest
import torch
from helpers.ranks import run_ranks
from helpers.reference import Reference, flat_weights
from helpers.sam_training import BATCH_SIZE, batch, make_network, train
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from samtune.config.efficient_methods import AESAMConfig, ESAMConfig, FisherSAMConfig, MESAConfig
from samtune.config.method import SAMConfig
from samtune.sam import TrainStep

LR = 0.1
EXACT = {"rtol": 0.0, "atol": 1e-13}


def make(method, model, steps=8):
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    step = TrainStep(model, nn.CrossEntropyLoss(), optimizer, method, batch_size=BATCH_SIZE, seed=3)
    step.begin_epoch(0, 1, steps_per_epoch=steps)
    return step


def reference(index):
    return Reference(make_network(), *batch(index))


def test_aesam_is_the_papers_algorithm():
    """Step by step: the statistics, the decision, the update, and the passes."""
    model = make_network()
    step = make(AESAMConfig(rho=0.5, threshold_start=0.8, threshold_end=-0.4, decay=0.7), model)
    w = flat_weights(model)
    mean = variance = None
    decisions, passes = [], 0.0
    for index in range(8):
        step(*batch(index))
        g = reference(index).gradient(w)
        square = g @ g
        if mean is None:
            mean, variance = square, torch.zeros_like(square)
        else:
            mean = 0.7 * mean + 0.3 * square
            variance = 0.7 * variance + 0.3 * (square - mean) ** 2
        c = 0.8 + (-0.4 - 0.8) * index / 8
        decisions.append(bool(square >= mean + c * variance.sqrt()))
        w = w - LR * (reference(index).gradient(w + 0.5 * g / g.norm()) if decisions[-1] else g)
        passes += 2.0 if decisions[-1] else 1.0
        assert_close(flat_weights(model), w, **EXACT)
        assert step.passes * 8 == pytest.approx(passes)
    assert decisions[0]
    assert 1 < sum(decisions) < 8


def test_aesam_with_a_low_or_a_high_threshold_is_sam_or_sgd():
    def final(method):
        model = make_network()
        step = make(method, model)
        for index in range(8):
            step(*batch(index))
        return flat_weights(model), step.passes

    always, passes = final(AESAMConfig(rho=0.5, threshold_start=-100.0, threshold_end=-100.0))
    assert passes == 2.0
    assert_close(always, final(SAMConfig(rho=0.5))[0], **EXACT)
    rarely, passes = final(AESAMConfig(rho=0.5, threshold_start=100.0, threshold_end=100.0))
    assert passes == pytest.approx(9 / 8)  # the first step alone
    assert_close(rarely, final(SAMConfig(rho=0.5, stop=0.125))[0], **EXACT)


def test_aesam_counts_the_same_passes_on_all_ranks():
    method = AESAMConfig(rho=0.3, m=4, decay=0.5)
    alone = train(0, 1, method, steps=8)
    ranks = run_ranks(2, train, method, steps=8)
    assert [each["passes"] for each in ranks] == pytest.approx([alone["passes"]] * 2)
    assert 4 < alone["passes"] * 4 < 8 * 4


def test_esam_selects_the_examples_whose_loss_rises_most():
    """β = 1: ε̂ is SAM's; the gradient is that of the half whose loss rises most."""
    model = make_network()
    step = make(ESAMConfig(rho=0.5, beta=1.0, gamma=0.5), model)
    w = flat_weights(model)
    step(*batch(0))
    inputs, targets = batch(0)
    g = reference(0).gradient(w)
    perturbed = w + 0.5 * g / g.norm()

    def losses(at):
        return functional.cross_entropy(reference(0).outputs(at), targets, reduction="none")

    rows = (losses(perturbed) - losses(w)).argsort(descending=True)[:8]
    chosen = Reference(make_network(), inputs[rows], targets[rows])
    assert_close(flat_weights(model), w - LR * chosen.gradient(perturbed), **EXACT)


def test_esam_perturbs_some_parameters_by_rho_over_beta_together():
    """As the authors' code: ε̂ = rho·g/(β·‖g‖), g and ‖g‖ of the parameters that were drawn."""
    model = make_network()
    step = make(ESAMConfig(rho=0.5, beta=0.6, gamma=1.0), model, steps=40)
    counts = []
    for index in range(40):
        w = [p.detach().clone() for p in model.parameters()]
        seen = []
        handle = model.register_forward_pre_hook(
            lambda *_, seen=seen: seen.append([p.detach().clone() for p in step.parameters])
        )
        flat = flat_weights(model)
        step(*batch(index))
        handle.remove()
        moved = [after - before for after, before in zip(seen[1], w, strict=True)]
        drawn = [bool(part.any()) for part in moved]
        counts.append(sum(drawn))
        if not any(drawn):
            continue
        gradient = torch.split(reference(index).gradient(flat), [p.numel() for p in w])
        picked = torch.cat([g if on else torch.zeros_like(g) for g, on in zip(gradient, drawn, strict=True)])
        epsilon = torch.cat([part.flatten() for part in moved])
        assert_close(epsilon, 0.5 / 0.6 * picked / picked.norm(), **EXACT)
    assert 0.6 * 160 - 4 * (160 * 0.24) ** 0.5 < sum(counts) < 0.6 * 160 + 4 * (160 * 0.24) ** 0.5
    assert len(set(counts)) > 1


@pytest.mark.parametrize("eta", [0.0, 1.0, 1e4])
def test_fisher_sam_is_the_steepest_ascent_in_the_metric_of_f(eta):
    model = make_network()
    step = make(FisherSAMConfig(rho=0.5, eta=eta), model)
    w = flat_weights(model)
    step(*batch(0))
    g = reference(0).gradient(w)
    fisher = 1.0 + eta * g**2
    epsilon = 0.5 * (g / fisher) / (g @ (g / fisher)).sqrt()
    assert_close((epsilon @ (fisher * epsilon)).sqrt().item(), 0.5)
    others = torch.randn(1000, len(g), generator=torch.Generator().manual_seed(0), dtype=g.dtype)
    others = others + 50 * epsilon / epsilon.norm()  # near it too
    others = 0.5 * others / (others**2 * fisher).sum(dim=1, keepdim=True).sqrt()
    assert (others @ g).max() < epsilon @ g
    assert_close(flat_weights(model), w - LR * reference(0).gradient(w + epsilon), **EXACT)


def test_mesa_is_the_loss_and_the_divergence_from_a_mean_of_the_weights():
    model = make_network()
    step = make(MESAConfig(rho=0.8, temperature=1.5, decay=0.6), model)
    w = mean = flat_weights(model)
    for index in range(6):
        step(*batch(index))
        mean = 0.6 * mean + 0.4 * w
        target = functional.softmax(reference(index).outputs(mean) / 1.5, dim=1)
        at = w.clone().requires_grad_()
        logits = functional.log_softmax(reference(index).outputs(at) / 1.5, dim=1)
        loss = reference(index).loss(at) + 0.8 * 1.5**2 * functional.kl_div(logits, target, reduction="batchmean")
        w = w - LR * torch.autograd.grad(loss, at)[0]
        assert_close(flat_weights(model), w, **EXACT)
    assert step.passes * 8 == pytest.approx(6 * 4 / 3)
    assert (mean - w).norm() > 0.01


def test_mesa_updates_running_statistics_at_w_once():
    """The forward at the mean of the weights leaves no trace in BatchNorm."""
    first = make_network(batch_norm=True)
    step = make(MESAConfig(rho=0.8, decay=0.6), first)
    step(*batch(0))
    inputs, targets = batch(1)
    running = first.layers[1].running_mean.clone()
    expected = 0.9 * running + 0.1 * first.layers[0](inputs).mean(dim=0)
    step(inputs, targets)
    assert_close(first.layers[1].running_mean, expected.detach())
