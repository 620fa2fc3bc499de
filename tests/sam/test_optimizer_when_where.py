"""`SAM` at some steps only, and of some parameters only: as `TrainStep` does it, with the passes counted."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.reference import flat_weights
from helpers.sam_training import BATCH_SIZE, batch, make_network
from torch import nn
from torch.testing import assert_close

from samtune.sam import SAM, Method, TrainStep, When
from samtune.sam.rules.sam import SAMRule

SGD = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}


class Loop:
    """Steps of `SAM` on the network, with the number of closure runs of each."""

    def __init__(self, *, layers=None, **options):
        self.model = make_network(**(layers or {}))
        self.optimizer = SAM(self.model.parameters(), torch.optim.SGD, rho=0.3, **SGD, **options)
        self.runs = []

    def step(self, index):
        inputs, targets = batch(index)
        self.runs.append(0)

        def closure():
            self.runs[-1] += 1
            self.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(self.model(inputs), targets)
            loss.backward()
            return loss

        return self.optimizer.step(closure)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [2] * 8),
        ({"every": 3}, [2, 1, 1, 2, 1, 1, 2, 1]),
        ({"start": 5}, [1, 1, 1, 1, 1, 2, 2, 2]),
        ({"start": 2, "stop": 4}, [1, 1, 2, 2, 1, 1, 1, 1]),
        ({"every": 2, "start": 3}, [1, 1, 1, 1, 2, 1, 2, 1]),
        ({"probability": 0.0}, [1] * 8),
    ],
)
def test_closure_runs_of_each_step_are_the_passes_that_are_counted(options, expected):
    loop = Loop(**options)
    for index in range(8):
        loop.step(index)
    assert loop.runs == expected
    group = loop.optimizer.param_groups[0]
    assert (group["sam_steps"], group["sam_passes"]) == (8, sum(expected))


def test_a_step_whose_rho_is_0_by_a_schedule_costs_one_pass_as_in_train_step():
    schedule = [0.0, 0.3, 0.0, 0.1]
    loop, model = Loop(layers={"batch_norm": True}), make_network(batch_norm=True)
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    method = Method(SAMRule, rho=lambda progress: schedule[round(progress * 4)])
    step = TrainStep(model, nn.CrossEntropyLoss(), optimizer, method, batch_size=BATCH_SIZE)
    step.begin_epoch(0, 1, steps_per_epoch=4)
    for index, rho in enumerate(schedule):
        loop.optimizer.param_groups[0]["rho"] = rho
        loop.step(index)
        step(*batch(index))
    assert loop.runs == [1, 2, 1, 2]
    assert loop.optimizer.param_groups[0]["sam_passes"] == 6 == round(step.passes * 4)
    assert_close(flat_weights(loop.model), flat_weights(model), rtol=0, atol=1e-14)
    for mine, theirs in zip(loop.model.buffers(), model.buffers(), strict=True):
        assert_close(mine, theirs, rtol=0, atol=1e-14)


def test_one_group_with_a_radius_keeps_the_second_pass():
    loop = Loop()
    first, *rest = loop.model.parameters()
    groups = [{"params": [first], "rho": 0.3}, {"params": rest, "rho": 0.0}]
    loop.optimizer = SAM(groups, torch.optim.SGD, **SGD)
    loop.step(0)
    loop.optimizer.param_groups[0]["rho"] = 0.0
    loop.step(1)
    assert loop.runs == [2, 1]


def test_accumulated_batches_at_rho_0_cost_one_pass_each():
    loop, plain = Loop(), make_network()
    loop.optimizer.param_groups[0]["rho"] = 0.0
    base, runs = torch.optim.SGD(plain.parameters(), **SGD), []

    def closure(model, index):
        inputs, targets = batch(index)
        runs.append(index)
        loss = nn.functional.cross_entropy(model(inputs), targets) / 2
        loss.backward()
        return loss

    for index in range(2):
        loop.optimizer.accumulate(lambda index=index: closure(loop.model, index))
    loop.optimizer.param_groups[0]["rho"] = 0.3  # of the next step: the passes of this one are made
    loop.optimizer.step()
    assert runs == [0, 1]
    assert loop.optimizer.param_groups[0]["sam_passes"] == 1
    for index in range(2):
        closure(plain, index)
    base.step()
    assert_close(flat_weights(loop.model), flat_weights(plain), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "when", "perturb"),
    [
        ({"every": 2}, When(every=2), "all"),
        ({"start": 4}, When(start=0.5), "all"),
        ({"probability": 0.5, "seed": 3}, When(probability=0.5), "all"),
        ({"perturb": "only_norm"}, When(), "only_norm"),
        ({"perturb": "no_norm_bias", "every": 3}, When(every=3), "no_norm_bias"),
        ({"perturb": r"layers\.3"}, When(), r"layers\.3"),
    ],
)
def test_the_steps_are_those_of_train_step(options, when, perturb):
    layers = {"batch_norm": True}
    loop = Loop(layers=layers, **options)
    model = make_network(**layers)
    step = TrainStep(
        model,
        nn.CrossEntropyLoss(),
        torch.optim.SGD(model.parameters(), **SGD),
        Method(SAMRule, rho=0.3, when=when, perturb=perturb),
        batch_size=BATCH_SIZE,
        seed=3,
    )
    step.begin_epoch(0, 1, steps_per_epoch=8)
    for index in range(8):
        loop.step(index)
        step(*batch(index))
    assert loop.optimizer.param_groups[0]["sam_passes"] == round(8 * step.passes)
    assert_close(flat_weights(loop.model), flat_weights(model), rtol=0, atol=1e-13)
    for name, buffer in model.named_buffers():
        assert_close(dict(loop.model.named_buffers())[name], buffer)


def test_a_resumed_optimizer_goes_on_at_its_step():
    whole = Loop(every=3)
    for index in range(7):
        whole.step(index)
    first, second = Loop(every=3), Loop(every=3)
    for index in range(2):
        first.step(index)
    second.model.load_state_dict(first.model.state_dict())
    second.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    for index in range(2, 7):
        second.step(index)
    assert second.runs == [1, 2, 1, 1, 2]
    assert torch.equal(flat_weights(second.model), flat_weights(whole.model))
    assert second.optimizer.param_groups[0]["sam_passes"] == 10


def test_first_step_perturbs_what_is_chosen_and_refuses_to_choose_steps():
    model = make_network(batch_norm=True)
    optimizer = SAM(model.parameters(), torch.optim.SGD, perturb="only_norm", rho=0.3, lr=0.1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    nn.functional.cross_entropy(model(batch(0)[0]), batch(0)[1]).backward()
    optimizer.first_step(zero_grad=True)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"layers.1.weight", "layers.1.bias"}
    with pytest.raises(RuntimeError, match=r"every, start, stop and probability need step\(closure\)"):
        SAM(model.parameters(), torch.optim.SGD, every=2, lr=0.1).first_step()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, r"every must be at least 1 \(got 0\)"),
        ({"start": -1}, r"start must be a number of steps \(got -1\)"),
        ({"start": 5, "stop": 5}, r"stop must be larger than start \(start is 5, stop 5\)"),
        ({"probability": 1.5}, r"probability must lie in \[0, 1\] \(got 1.5\)"),
        ({"perturb": "("}, "perturb must be all, no_norm_bias, only_norm or a regular expression"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Loop(**options)


def test_a_pattern_that_matches_nothing_is_refused_at_the_first_step():
    with pytest.raises(ValueError, match=r"perturb must match a trained parameter \(got 'conv'; there are layers\.0"):
        Loop(perturb="conv").step(0)


def test_a_group_cannot_have_its_own():
    with pytest.raises(ValueError, match="a parameter group cannot have its own every"):
        SAM([{"params": [torch.zeros(2, requires_grad=True)], "every": 2}], torch.optim.SGD, lr=0.1)
