"""The metrics of an epoch: their definitions, by hand; the warning; what belongs to which method."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from helpers.reference import flat_weights, groups
from helpers.sam_training import BATCH_SIZE, batch, make_network
from torch import nn

from samtune.config.method import BaseOptimizerConfig, FSAMConfig, MomentumSAMConfig, SAMConfig
from samtune.sam import TrainStep
from samtune.sam.diagnostics import SAMPLING_INTERVAL


def make(method, dtype=torch.float64, lr=0.1, loss=None):
    model = make_network(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    return model, TrainStep(model, loss or nn.CrossEntropyLoss(), optimizer, method, batch_size=BATCH_SIZE)


def test_every_metric_by_its_definition():
    """Two groups of 8 in one step."""
    model, step = make(SAMConfig(rho=0.5, m=8))
    w = flat_weights(model)
    parts = groups(make_network(), 8)
    step(*batch(0))
    found = step.epoch_metrics()
    g = [part.gradient(w) for part in parts]
    e = [0.5 * gi / gi.norm() for gi in g]
    descent = sum(part.gradient(w + ei) for part, ei in zip(parts, e, strict=True)) / 2
    inputs, targets = batch(0)
    # The rise of the error from w to w + ε̂, of the groups in turn
    errors = [[1 - part.accuracy(w), 1 - part.accuracy(w + ei)] for part, ei in zip(parts, e, strict=True)]
    error_sharpness = sum(after - before for before, after in errors) / 2
    expected = {
        "train_loss": sum(part.loss(w) for part in parts) / 2,
        "train_accuracy": (make_network()(inputs).argmax(dim=1) == targets).double().mean(),
        "sharpness": sum(part.loss(w + ei) - part.loss(w) for part, ei in zip(parts, e, strict=True)) / 2,
        "gradient_norm": sum(gi.norm() for gi in g) / 2,
        "perturbation_norm": 0.5,
        "relative_perturbation": 0.5 / w.norm(),
        "lost_perturbation": 0.0,
        "gradient_cosine": sum(torch.cosine_similarity(gi, descent, dim=0) for gi in g) / 2,
        "perturbation_cosine": torch.cosine_similarity(*e, dim=0),
        "skipped_steps": 0.0,
        "error_sharpness": error_sharpness,
    }
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(float(value), rel=1e-6, abs=1e-12), key


def test_means_are_over_all_steps_and_start_anew():
    model, step = make(SAMConfig(rho=0.1), lr=0.0)
    losses = []
    for index in range(SAMPLING_INTERVAL + 3):
        inputs, targets = batch(index)
        losses.append(nn.functional.cross_entropy(model(inputs), targets).item())
        step(inputs, targets)
    assert step.epoch_metrics()["train_loss"] == pytest.approx(sum(losses) / len(losses))
    step(*batch(0))
    assert step.epoch_metrics()["train_loss"] == pytest.approx(losses[0])
    assert step.epoch_metrics() == {}


def test_more_steps_than_are_kept_apart():
    _, step = make(SAMConfig(rho=0.1), lr=0.0)
    for _ in range(600):
        step.diagnostics.add("x", torch.tensor(2.0))
    assert step.epoch_metrics()["x"] == 2.0


def test_metrics_that_do_not_apply_are_absent():
    _, step = make(BaseOptimizerConfig())
    step(*batch(0))
    assert step.epoch_metrics().keys() == {"train_loss", "train_accuracy", "gradient_norm", "skipped_steps"}
    _, step = make(MomentumSAMConfig())
    step(*batch(0))
    assert "sharpness" not in step.epoch_metrics()


def test_no_accuracy_for_a_regression_and_one_for_class_probabilities():
    _, step = make(SAMConfig(), loss=lambda outputs, targets: (outputs[:, 0] - targets).square().mean())
    inputs, targets = batch(0)
    step(inputs, targets.double())
    assert "train_accuracy" not in step.epoch_metrics()
    accuracies = []
    for labels in (targets, nn.functional.one_hot(targets, 3).double()):
        _, step = make(SAMConfig())
        step(inputs, labels)
        accuracies.append(step.epoch_metrics()["train_accuracy"])
    assert accuracies[0] == accuracies[1]


def test_a_warning_when_rounding_loses_the_perturbation():
    """In bfloat16, with 8 bits, w + ε̂ == w wherever |ε̂| is below |w|/512 or so. Warned of once."""
    _, step = make(SAMConfig(rho=1e-4), torch.bfloat16)
    step(*batch(0, dtype=torch.bfloat16))
    with pytest.warns(UserWarning, match="rounding loses the perturbation of [0-9]+% of the weights"):
        metrics = step.epoch_metrics()
    assert metrics["lost_perturbation"] > 0.5
    step(*batch(1, dtype=torch.bfloat16))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step.epoch_metrics()


def test_lost_share_of_a_large_network_is_that_of_evenly_spaced_weights():
    """Half of 200,000 weights see a perturbation below their rounding, 3e-8 of 1; every fourth is looked at."""
    step, inputs = large_network(rho=1e-3, gradient_of_half=1e-2)
    step(inputs, torch.zeros(8))
    with pytest.warns(UserWarning, match="loses the perturbation of 50%"):
        assert step.epoch_metrics()["lost_perturbation"] == 0.5


def test_what_is_negligible_in_the_perturbation_is_not_lost():
    step, inputs = large_network(rho=1.0, gradient_of_half=1e-9)
    step(inputs, torch.zeros(8))
    assert step.epoch_metrics()["lost_perturbation"] == 0.0


def large_network(rho, gradient_of_half):
    model = nn.Linear(400, 500, bias=False)
    nn.init.ones_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs = torch.cat([torch.full((200,), gradient_of_half), torch.ones(200)]).expand(8, 400)  # the gradient's columns
    step = TrainStep(model, lambda outputs, targets: outputs.mean(), optimizer, SAMConfig(rho=rho), batch_size=8)
    return step, inputs


def test_a_dead_unit_of_friendly_sam_loses_nothing():
    """From step 1 on one weight's gradient is 0: its ε̂ is what is left in the average, 0.9^k of it, and still not 0."""
    model = nn.Linear(2, 1, bias=False)
    nn.init.ones_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    loss = lambda outputs, targets: (outputs[:, 0] * targets).mean()  # noqa: E731
    step = TrainStep(model, loss, optimizer, FSAMConfig(rho=0.3), batch_size=1)
    for index in range(14 * SAMPLING_INTERVAL + 1):  # 0.9^224 = 6e-11; metrics look at the last step too
        step(torch.tensor([[1.0, float(index == 0)]]), torch.tensor([(-1.0) ** index]))
    assert step.epoch_metrics()["lost_perturbation"] == 0.0


def test_a_skipped_step_does_not_spoil_the_means():
    _, step = make(SAMConfig(rho=0.1), lr=0.0)
    step(*batch(0))
    expected = step.epoch_metrics()
    step(*batch(0))
    inputs, targets = batch(1)
    step(inputs * math.nan, targets)
    found = step.epoch_metrics()
    assert found.pop("skipped_steps") == 1
    assert found.pop("train_accuracy") != expected.pop("train_accuracy")  # NaN outputs have an argmax
    expected.pop("skipped_steps")
    assert found == pytest.approx(expected)
