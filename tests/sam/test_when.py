"""When a method looks for sharpness: every k-th step, a part of the training, at random; and how its radius goes."""

from __future__ import annotations

import pytest
import torch
from helpers.ranks import run_ranks
from helpers.reference import Reference, flat_weights
from helpers.sam_training import BATCH_SIZE, batch, make_network, make_optimizer, train
from pydantic import ValidationError
from torch import nn
from torch.testing import assert_close

from samtune.config.method import LookSAMConfig, SAMConfig
from samtune.sam import Method, TrainStep, When
from samtune.sam.rules.sam import SAMRule


def make(method, model, optimizer=None, **options):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1) if optimizer is None else optimizer
    return TrainStep(model, nn.CrossEntropyLoss(), optimizer, method, batch_size=BATCH_SIZE, **options)


def passes_of_steps(method, num_steps, **options):
    """The passes of each step of one epoch."""
    step = make(method, make_network(), **options)
    step.begin_epoch(0, 1, steps_per_epoch=num_steps)
    found, before = [], 0.0
    for index in range(num_steps):
        step(*batch(index))
        found.append(round(num_steps * step.passes - before))
        before = num_steps * step.passes
    return found


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ({"every": 3}, [2, 1, 1, 2, 1, 1, 2, 1, 1, 2, 1, 1]),
        ({"start": 0.75}, [1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2]),
        ({"start": 0.25, "stop": 0.5}, [1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1]),
        ({"every": 2, "start": 0.5}, [1, 1, 1, 1, 1, 1, 2, 1, 2, 1, 2, 1]),
        ({"probability": 0.0}, [1] * 12),
    ],
)
def test_passes_of_each_step_and_as_declared(when, expected):
    method = SAMConfig(rho=0.1, **when)
    assert passes_of_steps(method, 12) == expected
    assert method.passes_per_step == pytest.approx(sum(expected) / 12)
    assert passes_of_steps(Method(SAMRule, rho=0.1, when=When(**when)), 12) == expected


def test_every_second_step_is_sam_and_the_others_sgd_in_closed_form():
    """w1 = w0 - lr ∇L0(w0 + rho ĝ), w2 = w1 - lr ∇L1(w1), and so on, by autograd in float64."""
    model = make_network()
    step = make(SAMConfig(rho=0.5, every=2), model)
    step.begin_epoch(0, 1, steps_per_epoch=4)
    w = flat_weights(model)
    for index in range(4):
        step(*batch(index))
        reference = Reference(make_network(), *batch(index))
        g = reference.gradient(w)
        w = w - 0.1 * (g if index % 2 else reference.gradient(w + 0.5 * g / g.norm()))
    assert_close(flat_weights(model), w, rtol=0, atol=1e-13)


def test_probability_is_the_share_of_steps_and_the_seed_decides():
    when = When(probability=0.3)
    draws = [when.holds(step, 0.5, seed=1) for step in range(10_000)]
    assert sum(draws) == pytest.approx(3000, abs=4 * (10_000 * 0.3 * 0.7) ** 0.5)  # four standard deviations
    assert draws == [when.holds(step, 0.5, seed=1) for step in range(10_000)]
    assert draws != [when.holds(step, 0.5, seed=2) for step in range(10_000)]


def test_looksam_counts_its_own_steps():
    """k = 2, every = 3: of 12 steps 4 are LookSAM's, of which 2 cost 2 passes."""
    method = LookSAMConfig(rho=0.1, k=2, every=3)
    assert passes_of_steps(method, 12) == [2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1, 1]
    assert method.passes_per_step == pytest.approx(14 / 12)


@pytest.mark.parametrize("method", [SAMConfig(rho=0.1, every=3), SAMConfig(rho=0.1, start=0.25, probability=0.5)])
def test_one_rank_equals_two(method):
    alone = train(0, 1, method.model_copy(update={"m": 8}), steps=12)
    first, second = run_ranks(2, train, method.model_copy(update={"m": 8}), steps=12)
    assert torch.equal(first["weights"], second["weights"])
    assert first["passes"] == second["passes"] == alone["passes"]
    assert_close(first["weights"], alone["weights"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", [LookSAMConfig(rho=0.1, k=2, every=2), SAMConfig(rho=0.1, probability=0.5)])
def test_resumed_is_uninterrupted_bit_for_bit(method):
    def run(cut):
        model = make_network(torch.float32)
        step = make(method, model, make_optimizer(model), seed=5)
        step.begin_epoch(0, 1, steps_per_epoch=9)
        for index in range(9):
            if index == cut:
                state, weights = step.state_dict(), model.state_dict()
                model = make_network(torch.float32)
                model.load_state_dict(weights)
                step = make(method, model, make_optimizer(model), seed=5)
                step.load_state_dict(state)
                step.begin_epoch(0, 1, steps_per_epoch=9, steps_done=cut)
            step(*batch(index, dtype=torch.float32))
        return flat_weights(model), step.passes

    whole, passes = run(None)
    for cut in (3, 4):
        weights, again = run(cut)
        assert torch.equal(weights, whole)
        assert again == passes


def test_warmup_rises_from_zero_and_stays():
    method = SAMConfig(rho=0.4, rho_schedule="warmup", rho_warmup=0.2)
    assert [method.rho_at(t) for t in (0.0, 0.1, 0.2, 1.0)] == pytest.approx([0.0, 0.2, 0.4, 0.4])


def test_proportional_to_lr_is_the_formula_of_gsam():
    """ρ_t = ρ_min + (ρ_max - ρ_min)(lr_t - lr_min)/(lr_max - lr_min), lr_min = 0: lr 0.1, 0.05, 0.025."""
    model = make_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = make(SAMConfig(rho=0.5, rho_final=0.1, rho_schedule="proportional_to_lr"), model, optimizer)
    for lr, rho in ((0.1, 0.5), (0.05, 0.3), (0.025, 0.2)):
        optimizer.param_groups[0]["lr"] = lr
        step.begin_epoch(0, 1, steps_per_epoch=1)
        step(*batch(0))
        assert step.epoch_metrics()["perturbation_norm"] == pytest.approx(rho)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "greater than or equal to 1"),
        ({"start": 1.5}, "less than or equal to 1"),
        ({"probability": -0.1}, "greater than or equal to 0"),
        ({"start": 0.5, "stop": 0.5}, r"stop must be larger than start \(start is 0.5, stop 0.5\)"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        SAMConfig(**options)
    with pytest.raises(ValueError, match="must"):
        When(**options)
