"""What any layer updates in its forward is updated once per step, and not at all by a step that is skipped."""

from __future__ import annotations

import math
import weakref

import pytest
import torch
from helpers.reference import flat_weights
from helpers.sam_training import BATCH_SIZE, batch
from helpers.stateful_layers import LAYERS, make, state
from torch import nn
from torch.testing import assert_close

from samtune.config.method import FrobSAMConfig, SAMConfig
from samtune.sam import SAM, TrainStep
from samtune.sam.running_state import RunningState


def step_of(face: str, model: nn.Module, method=None):
    """A function of a batch that takes one step, with lr 0 so that every batch meets the same weights."""
    if face == "train_step":
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        return TrainStep(model, nn.CrossEntropyLoss(), optimizer, method or SAMConfig(rho=0.5), batch_size=BATCH_SIZE)
    sam = SAM(model.parameters(), torch.optim.SGD, rho=0.5, lr=0.0)

    def step(inputs, targets):
        def closure():
            sam.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), targets)
            loss.backward()
            return loss

        sam.step(closure)

    return step


@pytest.mark.parametrize("face", ["optimizer", "train_step"])
@pytest.mark.parametrize("kind", LAYERS)
def test_three_steps_update_it_as_three_forwards_do(kind, face):
    model, plain = make(kind), make(kind)
    step = step_of(face, model)
    for index in range(3):
        step(*batch(index))
        plain(batch(index)[0])
    assert state(model).keys() == state(plain).keys()
    for name, value in state(plain).items():
        assert_close(state(model)[name], value, rtol=0, atol=1e-14, msg=name)


@pytest.mark.parametrize("kind", LAYERS)
def test_several_ascent_points_update_it_once_too(kind):
    model, plain = make(kind), make(kind)
    step = step_of("train_step", model, FrobSAMConfig(rho=0.1, num_directions=3))
    step(*batch(0))
    plain(batch(0)[0])
    for name, value in state(plain).items():
        assert_close(state(model)[name], value, rtol=0, atol=1e-14, msg=name)


@pytest.mark.parametrize("face", ["optimizer", "train_step"])
@pytest.mark.parametrize("bad", ["first", "second"])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_skipped_step_leaves_it_as_it_was(kind, bad, face):
    model = make(kind)
    step = step_of(face, model)
    step(*batch(0))
    before, weights, calls = state(model), flat_weights(model), []

    def overflow(module, inputs, outputs):
        calls.append(1)
        return outputs * math.inf if len(calls) == {"first": 1, "second": 2}[bad] else None

    handle = model[3].register_forward_hook(overflow)
    step(*batch(1))
    handle.remove()
    assert len(calls) == 2
    for name, value in before.items():
        assert torch.equal(state(model)[name], value), name
    assert torch.equal(flat_weights(model), weights)


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("kind", LAYERS)
def test_on_an_accelerator_the_choice_is_made_without_looking(kind, keep):
    """The condition is on another device than the CPU, from which nothing can be read: torch's meta device has none."""
    model = make(kind)
    saved = RunningState(model.modules()).save()
    before = state(model)
    model(batch(0)[0])
    after = state(model)

    class OnDevice:
        """A boolean scalar that says it lives elsewhere; whoever asks for its value fails."""

        device = torch.device("cuda")

        def to(self, device):
            return torch.tensor(keep)

        def __bool__(self):
            raise AssertionError("waited for the device")

    saved.restore_unless(OnDevice())
    for name, value in state(model).items():
        assert torch.equal(value, (after if keep else before)[name]), name


def test_layers_in_eval_mode_and_batch_norm_flags_stay():
    model = make("batch_norm")
    model[1].eval()
    step = step_of("optimizer", model)
    before = state(model)
    step(*batch(0))
    assert all(torch.equal(before[name], value) for name, value in state(model).items())
    assert not model[1].training
    assert model[1].track_running_stats


def test_frozen_and_parameterless_layers_of_the_closure_count_too():
    """Modules that own no parameter of the optimizer, behind an object, a dictionary and a partial function."""
    backbone, norm = make("batch_norm").requires_grad_(False), nn.BatchNorm1d(3, affine=False).double()
    head = nn.Linear(3, 3).double()
    sam = SAM(head.parameters(), torch.optim.SGD, rho=0.5, lr=0.1)

    class Trainer:
        def __init__(self):
            self.parts = {"backbone": backbone, "head": head}
            self.norms = [norm]

        def closure(self):
            sam.zero_grad()
            features = self.norms[0](self.parts["backbone"](batch(0)[0]))
            loss = nn.functional.cross_entropy(self.parts["head"](features), batch(0)[1])
            loss.backward()
            return loss

    trainer = Trainer()
    for closure in (trainer.closure, lambda: trainer.closure()):
        before = int(norm.num_batches_tracked)
        sam.step(closure)
        assert int(norm.num_batches_tracked) == int(backbone[1].num_batches_tracked) == before + 1


def test_the_model_is_found_where_the_closure_hides_it():
    """By the parameters: the closure holds a weak reference, which leads nowhere that could be seen."""
    model = make("batch_norm")
    hidden = weakref.ref(whole := nn.Sequential(model, nn.BatchNorm1d(3, affine=False).double()))
    sam = SAM(model.parameters(), torch.optim.SGD, rho=0.5, lr=0.1)

    def closure():
        sam.zero_grad()
        nn.functional.cross_entropy(hidden()(batch(0)[0]), batch(0)[1]).backward()

    sam.step(closure)
    assert int(model[1].num_batches_tracked) == int(whole[1].num_batches_tracked) == 1
