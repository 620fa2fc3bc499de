"""What people do with any torch optimizer, done with SAM: copies, hooks, checkpoints, groups, misuse."""

from __future__ import annotations

import copy
import gc
import io
import math
import pickle

import pytest
import torch
from helpers.reference import flat_weights
from helpers.sam_training import batch, make_network
from test_optimizer import closure_for, run
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from samtune.sam import SAM, TrainStep
from samtune.sam.rules.sam import SAMRule

MOMENTUM = {"lr": 0.1, "momentum": 0.9}


def through_a_file(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def through_a_pickle(value):
    return pickle.loads(pickle.dumps(value))


@pytest.mark.parametrize("copied", [copy.deepcopy, through_a_pickle, through_a_file])
@pytest.mark.parametrize("options", [{}, {"adaptive": True, "p": math.inf, "m": "global"}])
def test_a_copy_goes_on_as_the_original_does(copied, options):
    model = make_network(batch_norm=True)
    sam = SAM(model.parameters(), torch.optim.SGD, rho=0.1, **MOMENTUM, **options)
    run(sam, model, range(2))
    other, other_sam = copied((model, sam))
    before = flat_weights(other)
    run(sam, model, range(2, 4))
    assert torch.equal(flat_weights(other), before)  # nothing is shared
    run(other_sam, other, range(2, 4))
    assert torch.equal(flat_weights(other), flat_weights(model))
    assert other_sam.param_groups is other_sam.base_optimizer.param_groups


def test_state_dict_hooks_are_called_and_may_change_the_state():
    sam = SAM(make_network().parameters(), torch.optim.SGD, **MOMENTUM)
    called = []
    sam.register_state_dict_pre_hook(lambda optimizer: called.append("pre"))
    sam.register_state_dict_post_hook(lambda optimizer, state: called.append("post") or {**state, "mine": 1})
    sam.register_load_state_dict_pre_hook(lambda optimizer, state: called.append(state.pop("mine")))
    sam.register_load_state_dict_post_hook(lambda optimizer: called.append("loaded"))
    sam.load_state_dict(sam.state_dict())
    assert called == ["pre", "post", 1, "loaded"]


def test_the_state_of_the_base_optimizer_alone_can_be_loaded():
    """A run that began with SGD goes on with SAM: momentum and lr are taken over, rho stays."""
    model, other = make_network(), make_network()
    plain = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for index in range(3):
        plain.step(closure_for(plain, model, index))
    sam = SAM(model.parameters(), torch.optim.SGD, rho=0.0, **MOMENTUM)
    sam.load_state_dict(copy.deepcopy(plain.state_dict()))  # torch's load_state_dict shares the tensors
    assert sam.param_groups[0]["rho"] == 0.0
    assert sam.param_groups[0]["lr"] == 0.05
    other.load_state_dict(model.state_dict())
    plain_copy = torch.optim.SGD(other.parameters(), lr=0.05, momentum=0.9)
    plain_copy.load_state_dict(copy.deepcopy(plain.state_dict()))
    run(sam, model, [3])
    plain_copy.step(closure_for(plain_copy, other, 3))
    assert torch.equal(flat_weights(model), flat_weights(other))


def test_torch_distributed_checkpoint_takes_and_gives_the_state():
    def make():
        model = make_network()
        return model, SAM(model.parameters(), torch.optim.AdamW, rho=0.1, lr=0.01)

    model, sam = make()
    run(sam, model, range(3))
    other, other_sam = make()
    untouched = flat_weights(other)
    fresh = get_optimizer_state_dict(other, other_sam)  # makes the state by a step with gradients of 0
    assert torch.equal(flat_weights(other), untouched)
    assert fresh["param_groups"][0]["rho"] == 0.1
    other.load_state_dict(model.state_dict())
    set_optimizer_state_dict(other, other_sam, copy.deepcopy(get_optimizer_state_dict(model, sam)))
    run(sam, model, [3])
    run(other_sam, other, [3])
    assert torch.equal(flat_weights(other), flat_weights(model))


def test_a_group_that_is_maximised_is_perturbed_downwards():
    """SAM of -f, minimised, and of f, maximised, are the same."""
    model, other = make_network(), make_network()

    def closure(sam, network, sign):
        def run():
            sam.zero_grad()
            loss = sign * network(batch(0)[0]).square().mean()
            loss.backward()
            return loss

        return run

    up = SAM(model.parameters(), torch.optim.SGD, rho=0.1, maximize=True, **MOMENTUM)
    down = SAM(other.parameters(), torch.optim.SGD, rho=0.1, **MOMENTUM)
    for _ in range(3):
        up.step(closure(up, model, 1.0))
        down.step(closure(down, other, -1.0))
    assert torch.equal(flat_weights(model), flat_weights(other))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, maximize=True)
    with pytest.raises(ValueError, match="must minimise"):
        TrainStep(model, nn.CrossEntropyLoss(), optimizer, METHOD, batch_size=4)


class METHOD:
    """The least that TrainStep asks of a method."""

    group_size = "worker"

    @staticmethod
    def rho_at(progress):
        return 0.1

    @staticmethod
    def make_rule(parameters, seed):
        return SAMRule(parameters, seed)


@pytest.mark.parametrize("named", [True, False])
def test_biases_may_be_left_out_of_the_adaptive_neighbourhood_as_the_authors_do(named):
    """One linear layer, p = 2: T = |w| + η for the weight, 1 for the bias; ε̂ = rho·T²g/‖Tg‖."""
    torch.manual_seed(0)
    model = nn.Linear(6, 3).double()
    params = model.named_parameters() if named else model.parameters()
    sam = SAM(params, torch.optim.SGD, rho=0.3, adaptive=True, eta=0.01, adaptive_biases=False, lr=0.0)
    before, calls = flat_weights(model), []
    closure = closure_for(sam, model, 0, calls=calls)
    closure()
    g = torch.cat([p.grad.flatten() for p in model.parameters()])
    scale = torch.cat([model.weight.detach().abs().flatten() + 0.01, torch.ones(3, dtype=torch.float64)])
    calls.clear()
    sam.step(closure)
    torch.testing.assert_close(calls[1] - before, 0.3 * scale**2 * g / (scale * g).norm(), rtol=1e-9, atol=1e-13)
    if named:
        closure()
        sam.first_step()
        torch.testing.assert_close(flat_weights(model), calls[1], rtol=0, atol=1e-15)
        sam.second_step()


def test_optimizers_that_are_gone_leave_no_hook():
    model = make_network()
    for _ in range(50):
        run(SAM(model.parameters(), torch.optim.SGD, lr=0.1), model, [0])
    gc.collect()
    assert not any(parameter._backward_hooks for parameter in model.parameters())
    assert not any(parameter._post_accumulate_grad_hooks for parameter in model.parameters())


def refused(message, error=ValueError):
    return pytest.raises(error, match=message)


class TestMisuse:
    """One line each, and the weights stay."""

    def make(self):
        model = make_network()
        return model, SAM(model.parameters(), torch.optim.SGD, **MOMENTUM)

    def test_groups(self):
        parameters = list(make_network().parameters())
        for name in ("p", "adaptive", "eta", "m"):
            with refused(f"a parameter group cannot have its own {name}"):
                SAM([{"params": parameters, name: 2.0}], torch.optim.SGD, lr=0.1)
        with refused(r"rho must be at least 0 and finite \(got -1.0\)"):
            SAM([{"params": parameters, "rho": -1.0}], torch.optim.SGD, lr=0.1)
        model, sam = self.make()
        with refused("rho must be at least 0"):
            sam.add_param_group({"params": [nn.Parameter(torch.ones(2))], "rho": math.nan})
        sam.param_groups[0]["rho"] = -0.5
        with refused(r"rho must be at least 0 and finite \(got -0.5\)"):
            run(sam, model, [0])

    def test_a_base_optimizer_that_needs_a_closure(self):
        with refused(r"without a closure \(LBFGS needs one\)"):
            SAM(make_network().parameters(), torch.optim.LBFGS)

    @pytest.mark.parametrize("face", ["step", "first_step"])
    def test_no_backward(self, face):
        model, sam = self.make()
        before = flat_weights(model)
        with refused("must call loss.backward"):
            sam.first_step() if face == "first_step" else sam.step(lambda: model(batch(0)[0]).sum())
        assert torch.equal(flat_weights(model), before)

    def test_no_closure_with_a_gradient(self):
        model, sam = self.make()
        closure_for(sam, model, 0)()
        before = flat_weights(model)
        with refused("needs a closure"):
            sam.step()
        assert torch.equal(flat_weights(model), before)

    def test_the_two_faces_mixed(self):
        model, sam = self.make()
        before = flat_weights(model)
        closure = closure_for(sam, model, 0)
        with refused("second_step was called without first_step", RuntimeError):
            sam.second_step()
        closure()
        sam.first_step()
        for forbidden in (
            lambda: sam.step(closure),
            lambda: copy.deepcopy(sam),
            lambda: sam.load_state_dict(sam.state_dict()),
            lambda: sam.add_param_group({"params": [nn.Parameter(torch.ones(2))]}),
        ):
            with refused("must not come between first_step and second_step", RuntimeError):
                forbidden()
        sam.zero_grad()
        sam.second_step()  # no gradient: nothing but the way back
        assert torch.equal(flat_weights(model), before)
        run(sam, model, [0])

    def test_parameters_that_are_complex(self):
        parameter = nn.Parameter(torch.ones(3, dtype=torch.complex64))
        with refused("parameters must be real"):
            SAM([parameter], torch.optim.SGD, lr=0.1)

    def test_a_model_that_is_wrapped_already(self):
        model = make_network()
        with refused(r"bare module, which the step wraps itself \(got DataParallel\)"):
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            TrainStep(nn.DataParallel(model), nn.CrossEntropyLoss(), optimizer, METHOD, batch_size=4)


def test_what_other_libraries_take_is_answered_with_what_to_write() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(TypeError, match=r"^params must be parameters or groups of them: Linear\.parameters\(\)$"):
        SAM(model, torch.optim.SGD, lr=0.1)
    with pytest.raises(TypeError, match=r"^params must be .*; SAM makes the optimizer: SAM\(.*, torch\.optim\.SGD, "):
        SAM(torch.optim.SGD(model.parameters(), lr=0.1), torch.optim.SGD, lr=0.1)
    with pytest.raises(TypeError, match=r"^base_optimizer must be a class, .* \(got SGD as an object\)$"):
        SAM(model.parameters(), torch.optim.SGD(model.parameters(), lr=0.1))  # type: ignore[arg-type]
