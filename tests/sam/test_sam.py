"""SAM against plain float64 autograd: m-groups, norms, several ascent steps, random ascent, the second-order term."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.reference import flat_weights, groups, mean_over_groups, update_direction
from helpers.sam_training import BATCH_SIZE, batch, make_network
from torch import nn
from torch.testing import assert_close

from samtune.config.method import BaseOptimizerConfig, SAMConfig
from samtune.sam import TrainStep


def dual(g, rho, p):
    """Equation 2, written out."""
    if p == math.inf:
        return rho * g.sign()
    q = p / (p - 1)
    return rho * g.sign() * g.abs() ** (q - 1) / (g.abs() ** q).sum() ** (1 / p)


def assert_same_direction(found, expected):
    assert_close(found, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("m", [1, 4, 8, 16])
@pytest.mark.parametrize("p", [1.5, 2.0, 3.0, math.inf])
def test_gradient_at_the_perturbed_weights_of_each_group(m, p):
    expected = mean_over_groups(m, lambda r, w: r.gradient(w + dual(r.gradient(w), 0.1, p)))
    assert_same_direction(update_direction(SAMConfig(rho=0.1, m=m, p=p)), expected)


def test_p_1_moves_one_coordinate():
    def share(reference, w):
        g = reference.gradient(w)
        perturbation = torch.zeros_like(g)
        perturbation[g.abs().argmax()] = 0.1 * g[g.abs().argmax()].sign()
        return reference.gradient(w + perturbation)

    assert_same_direction(update_direction(SAMConfig(rho=0.1, p=1.0)), mean_over_groups(BATCH_SIZE, share))


@pytest.mark.parametrize("p", [2.0, math.inf])
@pytest.mark.parametrize(("steps", "step_size"), [(2, None), (3, 0.04), (3, 0.2)])
def test_projected_gradient_ascent(p, steps, step_size):
    rho = 0.1

    def project(e):
        if p == 2:
            return e * min(1.0, rho / e.norm().item())
        return e.clamp(-rho, rho)

    def share(reference, w):
        e = torch.zeros_like(w)
        for _ in range(steps):
            e = project(e + dual(reference.gradient(w + e), step_size or rho, p))
        return reference.gradient(w + e)

    method = SAMConfig(rho=rho, p=p, ascent_steps=steps, step_size=step_size, m=8)
    assert_same_direction(update_direction(method), mean_over_groups(8, share))


def test_one_ascent_step_is_sam_exactly():
    assert torch.equal(
        update_direction(SAMConfig(rho=0.1, ascent_steps=1, step_size=0.1)), update_direction(SAMConfig(rho=0.1))
    )


def test_random_ascent_has_length_rho_and_is_another_direction_for_each_group_and_step():
    seen = []
    model = make_network()
    forward = model.forward
    origin = flat_weights(model)

    def spy(inputs):
        seen.append(flat_weights(model) - origin)
        return forward(inputs)

    model.forward = spy
    update_direction(SAMConfig(ascent="random", rho=0.1, m=8), model=model)
    assert len(seen) == 2  # one pass: a forward per group
    for perturbation in seen:
        assert perturbation.norm().item() == pytest.approx(0.1, rel=1e-12)
    assert abs(torch.cosine_similarity(*seen, dim=0)) < 0.9


@pytest.mark.parametrize("m", [4, 16])
def test_second_order_equals_autograd_through_the_perturbation(m):
    def share(reference, w):
        w = w.requires_grad_()
        g = torch.autograd.grad(reference.loss(w), w, create_graph=True)[0]
        return torch.autograd.grad(reference.loss(w + 0.1 * g / g.norm()), w)[0]

    assert_same_direction(update_direction(SAMConfig(rho=0.1, second_order=True, m=m)), mean_over_groups(m, share))


def test_second_order_may_be_observed_along_the_first_order_path():
    """Appendix C.4 shows the cosine along both trajectories."""
    observed = SAMConfig(rho=0.1, second_order="observe", m=8)
    assert_same_direction(update_direction(observed), update_direction(SAMConfig(rho=0.1, m=8)))
    cosines = []
    for method in (observed, SAMConfig(rho=0.1, second_order=True, m=8)):
        model = make_network()
        step = TrainStep(
            model, nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), lr=0.1), method, batch_size=BATCH_SIZE
        )
        step(*batch(0))
        cosines.append(step.epoch_metrics()["second_order_cosine"])
    assert cosines[0] == cosines[1] < 1


def test_second_order_reports_the_cosine_of_both_updates():
    model = make_network()
    (reference,) = groups(model, BATCH_SIZE)
    w = flat_weights(model).requires_grad_()
    g = torch.autograd.grad(reference.loss(w), w, create_graph=True)[0]
    full = torch.autograd.grad(reference.loss(w + 0.5 * g / g.norm()), w)[0]
    first = reference.gradient(w + 0.5 * g.detach() / g.norm())
    step = TrainStep(
        model,
        nn.CrossEntropyLoss(),
        torch.optim.SGD(model.parameters(), lr=1.0),
        SAMConfig(rho=0.5, second_order=True),
        batch_size=BATCH_SIZE,
    )
    step(*batch(0))
    cosine = step.epoch_metrics()["second_order_cosine"]
    assert cosine == pytest.approx(torch.cosine_similarity(first, full, dim=0).item(), rel=1e-9)
    assert cosine < 0.9999  # else the test says nothing


def test_weight_decay_enters_neither_the_gradient_nor_the_perturbation():
    """One step by hand: w' = w - lr (∇L(w + ε̂) + λ w)."""
    model = make_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, weight_decay=0.3)
    step = TrainStep(model, nn.CrossEntropyLoss(), optimizer, SAMConfig(rho=0.1), batch_size=BATCH_SIZE)
    (reference,) = groups(make_network(), BATCH_SIZE)
    w = flat_weights(model)
    step(*batch(0))
    direction = reference.gradient(w + dual(reference.gradient(w), 0.1, 2.0))
    assert_same_direction(flat_weights(model), w - 0.5 * (direction + 0.3 * w))


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_rho_schedule(schedule):
    """Four steps over two epochs: at t = 0, 1/4, 1/2, 3/4 of the way from 0.4 to 0.2."""
    left = {"linear": [1, 0.75, 0.5, 0.25], "cosine": [0.5 * (1 + math.cos(math.pi * t / 4)) for t in range(4)]}
    model = make_network()
    step = TrainStep(
        model,
        nn.CrossEntropyLoss(),
        torch.optim.SGD(model.parameters(), lr=0.1),
        SAMConfig(rho=0.4, rho_schedule=schedule, rho_final=0.2),
        batch_size=BATCH_SIZE,
    )
    for index in range(4):
        if index % 2 == 0:
            step.begin_epoch(index // 2, 2, steps_per_epoch=2)
        step(*batch(index))
        found = step.epoch_metrics()[
            "perturbation_norm"
        ]  # each epoch_metrics starts a new mean, whose first step is sampled
        assert found == pytest.approx(0.2 + 0.2 * left[schedule][index], rel=1e-9)


def test_a_schedule_that_ends_at_zero_saves_the_ascent_there():
    step = TrainStep(
        model := make_network(),
        nn.CrossEntropyLoss(),
        torch.optim.SGD(model.parameters(), lr=0.1),
        SAMConfig(rho=0.0, rho_schedule="linear", rho_final=0.1),
        batch_size=BATCH_SIZE,
    )
    step.begin_epoch(0, 1, steps_per_epoch=2)
    step(*batch(0))
    assert step.passes == 0.5  # rho = 0: one pass of one of two batches
    step(*batch(1))
    assert step.passes == 1.5


@pytest.mark.parametrize("m", ["worker", 4])
def test_batch_norm_statistics_update_once_and_weigh_all_groups_alike(m):
    """(1 - 0.1) r + 0.1 · the mean over groups of the statistics at the unperturbed weights."""
    model = make_network(batch_norm=True)
    size = BATCH_SIZE if m == "worker" else m
    features = model.layers[0](batch(0)[0]).detach().split(size)
    means = torch.stack([part.mean(dim=0) for part in features]).mean(dim=0)
    variances = torch.stack([part.var(dim=0) for part in features]).mean(dim=0)
    update_direction(SAMConfig(rho=0.5, m=m), model=model)
    norm = model.layers[1]
    assert_close(norm.running_mean, 0.1 * means, rtol=1e-12, atol=1e-14)
    assert_close(norm.running_var, 0.9 + 0.1 * variances, rtol=1e-12, atol=1e-14)
    assert norm.num_batches_tracked == BATCH_SIZE // size
    assert norm.track_running_stats
    assert norm.momentum == 0.1


def test_batch_norm_in_eval_mode_is_left_alone():
    model = make_network(batch_norm=True)
    model.layers[1].eval()
    update_direction(SAMConfig(rho=0.5), model=model)
    assert torch.equal(model.layers[1].running_mean, torch.zeros(8, dtype=torch.float64))


@pytest.mark.parametrize("method", [SAMConfig(rho=0.1, m=8), SAMConfig(rho=0.1, ascent_steps=2)])
def test_dropout_uses_the_same_mask_in_all_passes_of_a_group(method):
    model = make_network(dropout=0.5)
    masks = []
    model.layers[2].register_forward_hook(lambda module, inputs, output: masks.append(output == 0))
    update_direction(method, model=model, num_steps=2)
    num_passes = method.ascent_steps + 1
    per_group = [masks[i : i + num_passes] for i in range(0, len(masks), num_passes)]
    assert all(torch.equal(mask, passes[0]) for passes in per_group for mask in passes)
    first = [passes[0] for passes in per_group]
    assert all(not torch.equal(a, b) for i, a in enumerate(first) for b in first[:i])  # groups and steps differ


class Shake(nn.Module):
    """Records what it is told about each forward."""

    def __init__(self):
        super().__init__()
        self.true_gradient = False
        self.told = []

    def forward(self, inputs):
        self.told.append(self.true_gradient)
        return inputs


def test_shake_modules_are_told_which_forwards_belong_to_the_ascent():
    def told(method):
        model = make_network()
        model.layers.append(shake := Shake())
        update_direction(method, model=model)
        return shake.told

    assert told(SAMConfig()) == [True, False]
    assert told(SAMConfig(m=8)) == [True, False, True, False]
    assert told(SAMConfig(ascent_steps=2)) == [True, True, False]
    assert told(BaseOptimizerConfig()) == [False]


def test_the_callers_random_numbers_are_left_alone():
    model = make_network(dropout=0.5)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    update_direction(SAMConfig(ascent="random"), model=model)
    assert torch.equal(torch.rand(3), expected)


def test_a_failing_forward_leaves_the_weights_restored():
    model = make_network()
    before = flat_weights(model)
    calls = []
    forward = model.forward

    def fail_when_perturbed(inputs):
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError("out of memory")
        return forward(inputs)

    model.forward = fail_when_perturbed
    with pytest.raises(MemoryError):
        update_direction(SAMConfig(rho=0.1), model=model)
    assert torch.equal(flat_weights(model), before)


def test_rho_zero_is_the_base_optimizer_bit_for_bit_in_float32():
    def final(method):
        model = make_network(torch.float32, batch_norm=True, dropout=0.2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
        step = TrainStep(model, nn.CrossEntropyLoss(), optimizer, method, batch_size=BATCH_SIZE)
        for index in range(5):
            step(*batch(index, dtype=torch.float32))
        return flat_weights(model), step.passes

    def plain():
        model = make_network(torch.float32)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
        for index in range(5):
            inputs, targets = batch(index, dtype=torch.float32)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
        return flat_weights(model)

    weights, passes = final(SAMConfig(rho=0.0, m=4))
    base, base_passes = final(BaseOptimizerConfig())
    assert torch.equal(weights, base)
    assert passes == base_passes == 5
    model = make_network(torch.float32)
    step = TrainStep(
        model,
        nn.CrossEntropyLoss(),
        torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3),
        BaseOptimizerConfig(),
        batch_size=BATCH_SIZE,
    )
    for index in range(5):
        step(*batch(index, dtype=torch.float32))
    assert torch.equal(flat_weights(model), plain())  # and that is a loop anyone would write


def test_a_shard_of_the_wrong_size_is_refused():
    step = TrainStep(
        model := make_network(),
        nn.CrossEntropyLoss(),
        torch.optim.SGD(model.parameters(), lr=0.1),
        SAMConfig(),
        batch_size=BATCH_SIZE,
    )
    with pytest.raises(ValueError, match=r"batch_size / num_workers examples, 16 \(got 5\)"):
        step(*batch(0, 5))
