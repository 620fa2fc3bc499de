"""Skipping a step on the device: what an accelerator would run, run here on the CPU; and fp16's loss scale."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.sam_training import BATCH_SIZE, batch, make_network
from torch import nn
from torch.testing import assert_close

from samtune.config.method import SAMConfig
from samtune.sam import TrainStep, conditional_step

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "plain_sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1),
    "adamw_fused": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
    "sgd_fused": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
}


def everything(parameter, optimizer):
    tensors = [parameter, *(v for v in optimizer.state[parameter].values() if isinstance(v, torch.Tensor))]
    return torch.cat([t.detach().double().flatten() for t in tensors])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_on_the_device_a_bad_step_changes_nothing_and_a_good_one_everything(name):
    parameter, twin = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer, plain = OPTIMIZERS[name]([parameter]), OPTIMIZERS[name]([twin])
    for gradient in ([1.0, 2.0, 3.0], [math.nan, 1.0, 1.0], [1.0, -2.0, 0.5], [math.inf, 0.0, 0.0]):
        parameter.grad = torch.tensor(gradient)
        finite = torch.isfinite(parameter.grad.sum())
        before = everything(parameter, optimizer)
        if not conditional_step._has_state(optimizer):
            conditional_step.step_if(finite, optimizer)  # the first step looks
        elif getattr(optimizer, "_step_supports_amp_scaling", False):
            conditional_step._fused_step(finite, optimizer)
        else:
            conditional_step._select_step(finite, optimizer)
        if finite:
            twin.grad = torch.tensor(gradient)
            plain.step()
            assert torch.equal(parameter, twin)
            assert torch.equal(everything(parameter, optimizer), everything(twin, plain))
        else:
            assert torch.equal(everything(parameter, optimizer), before)


def test_a_bad_first_step_leaves_no_state():
    parameter = nn.Parameter(torch.ones(3))
    optimizer = OPTIMIZERS["sgd"]([parameter])
    parameter.grad = torch.full((3,), math.nan)
    conditional_step.step_if(torch.tensor(False), optimizer)
    assert not optimizer.state[parameter]
    assert torch.equal(parameter, torch.ones(3))


def test_fp16_halves_the_scale_when_a_gradient_overflows_and_doubles_it_in_time():
    model = make_network(torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = TrainStep(
        model, nn.CrossEntropyLoss(), optimizer, SAMConfig(rho=0.1), batch_size=BATCH_SIZE, precision="fp16"
    )
    first = step._scaler.get_scale()
    inputs, targets = batch(0, dtype=torch.float32)
    step(inputs, targets)
    step(inputs * math.inf, targets)
    assert step._scaler.get_scale() == first / 2
    assert step.epoch_metrics()["skipped_steps"] == 1
    state = step.state_dict()
    other = TrainStep(
        model, nn.CrossEntropyLoss(), optimizer, SAMConfig(rho=0.1), batch_size=BATCH_SIZE, precision="fp16"
    )
    other.load_state_dict(state)
    assert other._scaler.get_scale() == first / 2


def test_the_perturbation_is_of_the_unscaled_gradient():
    """The loss scale must appear neither in ‖g‖ nor in ε̂."""
    metrics = {}
    for precision in ("fp32", "fp16"):
        model = make_network(torch.float32)
        step = TrainStep(
            model,
            nn.CrossEntropyLoss(),
            torch.optim.SGD(model.parameters(), lr=0.1),
            SAMConfig(rho=0.1),
            batch_size=BATCH_SIZE,
            precision=precision,
        )
        step(*batch(0, dtype=torch.float32))
        metrics[precision] = step.epoch_metrics()
    for key in ("gradient_norm", "perturbation_norm", "gradient_cosine"):
        assert_close(metrics["fp16"][key], metrics["fp32"][key], rtol=0.01, atol=0)
