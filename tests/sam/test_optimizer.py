"""SAM as a torch optimizer in a loop of one's own, on one process; test_communication has it on ranks."""

from __future__ import annotations

import gc
import math
import weakref

import pytest
import torch
from helpers.reference import flat_weights, groups
from helpers.sam_training import BATCH_SIZE, batch, make_network
from test_sam import Shake
from torch import nn
from torch.testing import assert_close

from samtune.config.method import ASAMConfig, SAMConfig
from samtune.sam import SAM, TrainStep


def closure_for(sam, model, index, dtype=torch.float64, calls=None):
    inputs, targets = batch(index, dtype=dtype)

    def closure():
        if calls is not None:
            calls.append(flat_weights(model))
        sam.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        return loss

    return closure


def run(sam, model, steps, dtype=torch.float64):
    for index in steps:
        sam.step(closure_for(sam, model, index, dtype))


@pytest.mark.parametrize(
    ("options", "method"),
    [
        ({"rho": 0.1}, SAMConfig(rho=0.1)),
        ({"rho": 0.1, "p": math.inf}, SAMConfig(rho=0.1, p=math.inf)),
        ({"rho": 0.1, "p": 1.0}, SAMConfig(rho=0.1, p=1.0)),
        ({"rho": 0.3, "adaptive": True}, ASAMConfig(rho=0.3)),
        ({"rho": 0.1, "adaptive": True, "p": math.inf, "eta": 0.1}, ASAMConfig(rho=0.1, p=math.inf, eta=0.1)),
    ],
)
def test_it_is_the_step_of_the_train_step(options, method):
    """Momentum, weight decay, BatchNorm; twenty steps in float64."""
    first, second = make_network(batch_norm=True), make_network(batch_norm=True)
    base = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    sam = SAM(first.parameters(), torch.optim.SGD, **options, **base)
    run(sam, first, range(20))
    step = TrainStep(
        second, nn.CrossEntropyLoss(), torch.optim.SGD(second.parameters(), **base), method, batch_size=BATCH_SIZE
    )
    for index in range(20):
        step(*batch(index))
    assert_close(flat_weights(first), flat_weights(second), rtol=0, atol=1e-12)
    assert_close(first.layers[1].running_var, second.layers[1].running_var, rtol=0, atol=1e-12)
    assert first.layers[1].num_batches_tracked == 20


def test_first_step_and_second_step_as_in_davda54_sam():
    model, other = make_network(), make_network()
    sam = SAM(model.parameters(), torch.optim.SGD, rho=0.1, lr=0.1, momentum=0.9)
    for index in range(3):
        inputs, targets = batch(index)
        nn.functional.cross_entropy(model(inputs), targets).backward()
        sam.first_step(zero_grad=True)
        nn.functional.cross_entropy(model(inputs), targets).backward()
        sam.second_step(zero_grad=True)
    run(SAM(other.parameters(), torch.optim.SGD, rho=0.1, lr=0.1, momentum=0.9), other, range(3))
    assert torch.equal(flat_weights(model), flat_weights(other))
    assert all(p.grad is None for p in model.parameters())


def test_step_returns_the_loss_at_w_and_keeps_storage():
    model = make_network()
    sam = SAM(model.parameters(), torch.optim.SGD, rho=0.5, lr=0.1)
    (reference,) = groups(make_network(), BATCH_SIZE)
    pointers = [p.data_ptr() for p in model.parameters()]
    before, calls = flat_weights(model), []
    loss = sam.step(closure_for(sam, model, 0, calls=calls))
    assert_close(loss.detach(), reference.loss(before))
    assert torch.equal(calls[0], before)
    assert (calls[1] - before).norm().item() == pytest.approx(0.5)
    assert [p.data_ptr() for p in model.parameters()] == pointers


def test_dropout_uses_the_same_mask_in_both_runs_and_another_in_the_next_step():
    model = make_network(dropout=0.5)
    masks = []
    model.layers[2].register_forward_hook(lambda module, inputs, output: masks.append(output == 0))
    sam = SAM(model.parameters(), torch.optim.SGD, lr=0.1)
    run(sam, model, range(2))
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[2], masks[3])
    assert not torch.equal(masks[0], masks[2])


def test_shake_modules_are_told_which_run_is_the_ascent():
    model = make_network()
    model.layers.append(shake := Shake())
    run(SAM(model.parameters(), torch.optim.SGD, lr=0.1), model, range(2))
    assert shake.told == [True, False, True, False]
    assert shake.true_gradient is False


def test_groups_with_a_rho_of_their_own():
    """One perturbation direction over all weights; each group goes its own rho along it."""
    model = make_network()
    first, last = list(model.layers[0].parameters()), list(model.layers[-1].parameters())
    sam = SAM([{"params": first}, {"params": last, "rho": 0.0}], torch.optim.SGD, rho=0.5, lr=0.1)
    g = groups(make_network(), BATCH_SIZE)[0].gradient(flat_weights(model))
    before, calls = flat_weights(model), []
    sam.step(closure_for(sam, model, 0, calls=calls))
    size = sum(p.numel() for p in first)
    moved = calls[1] - before
    assert_close(moved[:size], (0.5 * g / g.norm())[:size], rtol=1e-9, atol=1e-13)
    assert torch.equal(moved[size:], torch.zeros_like(moved[size:]))


def test_a_group_added_later_is_trained_and_perturbed():
    model = make_network()
    sam = SAM(model.layers[0].parameters(), torch.optim.SGD, rho=0.1, lr=0.1, momentum=0.9)
    sam.add_param_group({"params": list(model.layers[-1].parameters())})
    other = make_network()
    run(sam, model, range(3))
    run(SAM(other.parameters(), torch.optim.SGD, rho=0.1, lr=0.1, momentum=0.9), other, range(3))
    assert_close(flat_weights(model), flat_weights(other), rtol=0, atol=1e-14)


@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.AdamW])
def test_resumed_equals_uninterrupted_bit_for_bit(base, tmp_path):
    """The base optimizer's state is in the state dict, also after a round trip through a file; rho changes too."""
    options = {"lr": 0.05, "momentum": 0.9} if base is torch.optim.SGD else {"lr": 0.05}

    def make(model):
        sam = SAM(model.parameters(), base, rho=0.1, **options)
        return sam, torch.optim.lr_scheduler.CosineAnnealingLR(sam, 8)

    def go_on(model, sam, scheduler, steps):
        for index in steps:
            sam.step(closure_for(sam, model, index, torch.float32))
            scheduler.step()
            for group in sam.param_groups:
                group["rho"] *= 0.9

    whole = make_network(torch.float32)
    go_on(whole, *make(whole), range(8))

    half = make_network(torch.float32)
    sam, scheduler = make(half)
    go_on(half, sam, scheduler, range(4))
    torch.save({"model": half.state_dict(), "sam": sam.state_dict(), "lr": scheduler.state_dict()}, tmp_path / "c.pt")
    state = torch.load(tmp_path / "c.pt", weights_only=True)

    resumed = make_network(torch.float32)
    sam, scheduler = make(resumed)
    resumed.load_state_dict(state["model"])
    sam.load_state_dict(state["sam"])
    scheduler.load_state_dict(state["lr"])
    assert sam.param_groups[0]["rho"] == pytest.approx(0.1 * 0.9**4)
    go_on(resumed, sam, scheduler, range(4, 8))
    assert torch.equal(flat_weights(resumed), flat_weights(whole))


def test_rho_zero_is_the_base_optimizer_bit_for_bit():
    model, other = make_network(torch.float32), make_network(torch.float32)
    run(SAM(model.parameters(), torch.optim.SGD, rho=0.0, lr=0.1, momentum=0.9), model, range(5), torch.float32)
    base = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9)
    for index in range(5):
        base.step(closure_for(base, other, index, torch.float32))
    assert torch.equal(flat_weights(model), flat_weights(other))


@pytest.mark.parametrize("call", [1, 2])
def test_a_gradient_that_is_not_finite_skips_the_step(call):
    model = make_network()
    sam = SAM(model.parameters(), torch.optim.SGD, lr=0.1)
    before, calls = flat_weights(model), []

    def closure():
        calls.append(1)
        sam.zero_grad()
        loss = model(batch(0)[0]).square().mean() * (math.inf if len(calls) == call else 1.0)
        loss.backward()
        return loss

    sam.step(closure)
    assert torch.equal(flat_weights(model), before)


def test_an_exception_in_the_second_run_leaves_the_weights_and_the_layers_as_they_were():
    model = make_network(batch_norm=True)
    sam = SAM(model.parameters(), torch.optim.SGD, lr=0.1)
    before, calls = flat_weights(model), []

    def fail(module, inputs):
        calls.append(module.track_running_stats)
        if len(calls) == 2:
            raise MemoryError("out of memory")

    model.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(MemoryError):
        run(sam, model, [0])
    assert torch.equal(flat_weights(model), before)
    assert model.layers[1].track_running_stats
    model.layers[1]._forward_pre_hooks.clear()
    run(sam, model, [1])
    assert not torch.equal(flat_weights(model), before)


def test_no_module_hook_stays_registered():
    from torch.nn.modules import module

    model = make_network(batch_norm=True)
    run(SAM(model.parameters(), torch.optim.SGD, lr=0.1), model, [0])
    assert not module._global_forward_hooks
    assert not module._global_forward_pre_hooks


def test_it_can_be_collected():
    model = make_network()
    sam = SAM(model.parameters(), torch.optim.SGD, lr=0.1)
    run(sam, model, [0])
    dead = weakref.ref(sam), weakref.ref(model)
    del sam, model
    gc.collect()
    assert [reference() for reference in dead] == [None, None]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rho": -1.0}, r"rho must be at least 0 and finite \(got -1.0\)"),
        ({"rho": math.nan}, r"rho must be at least 0 and finite \(got nan\)"),
        ({"p": 0.5}, r"p must lie in \[1, inf\]"),
        ({"p": 3.0, "adaptive": True}, r"with adaptive it must be 2 or inf \(got 3.0\)"),
        ({"eta": -0.1}, r"eta must be at least 0 \(got -0.1\)"),
        ({"m": "batch"}, r"m must be worker or global \(got 'batch'\)"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SAM(make_network().parameters(), torch.optim.SGD, lr=0.1, **options)


def test_misuse_is_named():
    sam = SAM((model := make_network()).parameters(), torch.optim.SGD, lr=0.1)
    with pytest.raises(ValueError, match="needs a closure"):
        sam.step()
    closure_for(sam, model, 0)()
    sam.first_step()
    with pytest.raises(RuntimeError, match="first_step was called twice"):
        sam.first_step()
    sam.second_step()
