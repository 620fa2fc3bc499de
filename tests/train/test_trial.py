"""One trial on one worker: averaged weights, weight decay, budget in passes, layout, compilation, resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from samtune.config.space import SearchSpace
from samtune.config.training import TrainingConfig
from samtune.errors import SpaceError
from samtune.train.averaging import WeightAverage
from samtune.train.checkpoint import CheckpointFolder
from samtune.train.optimizers import base_optimizer, learning_rate
from samtune.train.trial import DivergedError, TrialRun

Make = Callable[..., TrialRun]


def state_of(run: TrialRun) -> Tensor:
    return torch.cat([tensor.detach().flatten().double() for tensor in run.model.state_dict().values()])


def train(run: TrialRun, *epochs: int) -> TrialRun:
    for epoch in epochs:
        run.train_epoch(epoch)
    return run


# -- averaged weights ------------------------------------------------------------------------------------


def test_the_average_follows_the_formula() -> None:
    """w = 8, then 4 and 2: d_1 = 2/11 and d_2 = 3/12, so 8 -> 4 + 4·2/11 = 52/11 -> 2 + (52/11 - 2)·1/4 = 59/22."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 8.0)
    average = WeightAverage(model, 0.9)
    for step, value in enumerate((4.0, 2.0), start=1):
        nn.init.constant_(model.weight, value)
        average.update(step)
    assert average.model.weight.item() == pytest.approx(59 / 22)
    assert model.weight.item() == 2.0


def test_a_small_decay_bounds_the_warm_up() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    average = WeightAverage(model, 0.1)  # (1 + t) / (10 + t) is larger from the first step on
    nn.init.constant_(model.weight, 0.0)
    average.update(1)
    assert average.model.weight.item() == pytest.approx(0.1)


def test_the_averaged_weights_are_evaluated_and_the_others_are_trained(make_run: Make) -> None:
    plain, averaged, forgetful = make_run(), make_run("training.ema=0.99"), make_run("training.ema=0.0")
    for run in (plain, averaged, forgetful):
        train(run, 1, 2)
    assert torch.equal(state_of(plain), state_of(averaged))
    assert plain.history[-1]["train_loss"] == averaged.history[-1]["train_loss"]
    assert plain.history[-1]["val_loss"] != averaged.history[-1]["val_loss"]
    assert plain.history[-1]["val_loss"] == pytest.approx(forgetful.history[-1]["val_loss"])  # no memory at all


def test_weights_shared_by_two_layers_are_averaged_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
            self.second.weight = self.first.weight

    model = Tied()
    nn.init.constant_(model.first.weight, 1.0)
    average = WeightAverage(model, 0.1)
    nn.init.constant_(model.first.weight, 0.0)
    average.update(1)
    assert average.model.first.weight is average.model.second.weight
    assert float(average.model.first.weight.detach()[0, 0]) == pytest.approx(0.1)


# -- resume ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [
        ("training.ema=0.9", "training.decay_norms_and_biases=false"),
        ("training.channels_last=true", "training.optimizer=adamw", "training.ema=0.9"),
        ("training.accumulate=2", "method={name: looksam, k: 2}"),
    ],
    ids=["ema", "channels_last", "accumulate"],
)
def test_resumed_equals_uninterrupted_bit_for_bit(make_run: Make, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    whole = train(make_run(*overrides), 1, 2)
    checkpoints = CheckpointFolder(str(tmp_path / "checkpoints"))
    train(make_run(*overrides), 1).save(checkpoints)
    resumed = make_run(*overrides)
    resumed.restore(checkpoints)
    train(resumed, 2)
    assert torch.equal(state_of(resumed), state_of(whole))
    for name in ("val_loss", "val_accuracy", "train_loss", "sharpness"):
        assert resumed.history[-1].get(name) == whole.history[-1].get(name)


def test_of_two_checkpoints_in_a_folder_of_tune_s_the_newest_is_taken_over(make_run: Make, tmp_path: Path) -> None:
    source, own = CheckpointFolder(str(tmp_path / "source")), CheckpointFolder(str(tmp_path / "own"))
    run, folder = make_run(), tmp_path / "tune"
    folder.mkdir()
    for epoch in (1, 2):
        train(run, epoch).save(source)
        source.export(epoch, folder)
    own.adopt(folder)
    other = make_run()
    other.restore(own)
    assert torch.equal(state_of(other), state_of(run))
    assert [record["epoch"] for record in other.history] == [1, 2]
    (tmp_path / "empty").mkdir()
    with pytest.raises(OSError, match="there is no checkpoint"):
        own.adopt(tmp_path / "empty")


# -- weight decay ----------------------------------------------------------------------------------------


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 3))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_without_gradients_only_weights_decay(optimizer: Any) -> None:
    """All gradients 0, lr 0.1, weight decay 0.5: a decayed parameter is multiplied by 0.95."""
    model = network()
    for parameter in model.parameters():
        nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    config = TrainingConfig(optimizer=optimizer, lr=0.1, weight_decay=0.5, momentum=0.0, decay_norms_and_biases=False)
    base_optimizer(config, model).step()
    found = {name: round(parameter.mean().item(), 6) for name, parameter in model.named_parameters()}
    assert found == {"0.weight": 0.95, "0.bias": 1.0, "1.weight": 1.0, "1.bias": 1.0, "3.weight": 0.95, "3.bias": 1.0}


def test_every_parameter_decays_by_default() -> None:
    groups = base_optimizer(TrainingConfig(weight_decay=0.5), network()).param_groups
    assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [(6, 0.5)]


# -- layout, accumulation, compilation -------------------------------------------------------------------


@pytest.mark.parametrize("override", ["training.channels_last=true", "training.accumulate=4"])
def test_the_result_is_that_of_the_plain_run_up_to_rounding(make_run: Make, override: str) -> None:
    groups = "method.m=16"  # so that BatchNorm sees the same examples together
    plain, other = train(make_run(groups), 1), train(make_run(groups, override), 1)
    torch.testing.assert_close(state_of(other), state_of(plain), rtol=1e-4, atol=1e-5)
    for name in ("sharpness", "perturbation_norm", "val_loss"):
        assert other.history[0][name] == pytest.approx(plain.history[0][name], rel=1e-3)
    assert other.history[0]["num_passes"] == plain.history[0]["num_passes"] == 2.0


def test_parts_of_a_batch_must_be_whole(make_run: Make) -> None:
    with pytest.raises(SpaceError, match="accumulate must divide batch_size"):
        make_run("training.accumulate=3")
    with pytest.raises(SpaceError, match="m"):
        make_run("training.accumulate=8", "method.m=16")  # a part has 8 examples


@pytest.mark.slow
def test_a_compiled_network_has_the_same_perturbation(make_run: Make) -> None:
    """More m-groups than torch compiles variants of a function by default, and dropout-free: only rounding differs."""
    options = ("method.m=16", "training.epochs=1", "model.width=4", "data.num_train=200")
    plain, compiled = train(make_run(*options), 1), train(make_run(*options, "training.compile=true"), 1)
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    torch.testing.assert_close(state_of(compiled), state_of(plain), rtol=1e-4, atol=1e-5)
    for name in ("perturbation_norm", "sharpness", "gradient_cosine"):
        assert compiled.history[0][name] == pytest.approx(plain.history[0][name], rel=1e-3)
    assert compiled.model.state_dict().keys() == plain.model.state_dict().keys()


def test_a_method_that_differentiates_twice_is_not_compiled(make_run: Make) -> None:
    with pytest.raises(SpaceError, match=r"training\.compile.*must be off with method\.second_order"):
        make_run("training.compile=true", "method.second_order=true")


# -- budget in passes ------------------------------------------------------------------------------------

PASSES = ["training={passes: 13, batch_size: 64, lr: 0.01}"]


@pytest.mark.parametrize(
    ("method", "num_epochs"),
    [
        ("{name: sgd}", 13),
        ("{name: sam}", 6),  # 12 of 13 passes
        ("{name: sam, rho: 0.0}", 13),  # SGD
        ("{name: sam, ascent_steps: 3}", 3),
        ("{name: frob_sam, num_directions: 3}", 3),
        ("{name: looksam, k: 5}", 10),  # 12 of 13: an epoch costs 1.2
    ],
)
def test_a_trial_trains_the_whole_epochs_that_its_passes_pay_for(make_run: Make, method: str, num_epochs: int) -> None:
    run = make_run(*PASSES, f"method={method}", "data.num_train=142")
    assert run.spec.num_epochs == num_epochs
    forwards: list[int] = []
    run.model.register_forward_pre_hook(lambda module, inputs: forwards.append(len(inputs[0]) * module.training))
    train(run, *range(1, num_epochs + 1))
    spent = run.history[-1]["num_passes"]
    examples = run.steps_per_epoch * 64
    assert sum(forwards) / examples == pytest.approx(spent, rel=0.02)  # LookSAM's last cycle may be cut short
    assert spent <= 13 + 1 / run.steps_per_epoch
    assert spent + run.spec.passes_per_epoch > 13 - 0.5
    assert run.history[-1]["lr"] < 0.01  # the schedule is over these epochs
    assert run.spec.params()["training.epochs"] == num_epochs


def test_twelve_passes_of_1_2_are_ten_epochs() -> None:
    space = SearchSpace.from_yaml("digits.yaml", ["training={passes: 12}", "method={name: looksam}", "search={}"])
    assert space.replace({"initial": []}).trial({}).num_epochs == 10


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training={passes: 12, epochs: 3}"], "give epochs or passes, not both (epochs is 3, passes 12)"),
        (["training={passes: 1.5}"], "must hold an epoch of sam, which costs 2 passes (got 1.5)"),
        (["training={passes: 8, warmup_epochs: 5}"], "warmup_epochs must not exceed epochs (warmup_epochs is 5.0"),
    ],
)
def test_a_budget_that_does_not_fit_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(SpaceError) as caught:
        SearchSpace.from_yaml("digits.yaml", overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_setting_one_of_both_lengths_leaves_the_other_out() -> None:
    space = SearchSpace.from_yaml("digits.yaml", ["training.passes=24"])  # the file has epochs
    assert (space.training.epochs, space.training.passes) == (None, 24.0)
    back = space.replace({"training.epochs": 3})
    assert (back.training.epochs, back.training.passes) == (3, None)


# -- schedules -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"schedule": "constant"}, [1, 1, 1, 1, 1, 1, 1, 1]),
        ({"schedule": "linear"}, [1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
        ({"schedule": "multi_step", "milestones": [1, 3]}, [1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01]),
        ({"schedule": "linear", "warmup_epochs": 2.0}, [0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25]),
        ({"schedule": "cosine", "warmup_epochs": 1.0}, [0.5, 1, 1, 0.933013, 0.75, 0.5, 0.25, 0.066987]),
    ],
    ids=["constant", "linear", "multi_step", "warm_up", "cosine"],
)
def test_learning_rate_of_every_step(options: dict[str, Any], expected: list[float]) -> None:
    """Four epochs of two steps, peak 1."""
    config = TrainingConfig(lr=1.0, **options)
    found = [learning_rate(config, step, num_epochs=4, steps_per_epoch=2) for step in range(8)]
    assert found == pytest.approx(expected, abs=1e-6)


# -- evaluation ------------------------------------------------------------------------------------------


def test_without_validation_the_test_set_is_evaluated(make_run: Make) -> None:
    run = train(make_run("data.validation_fraction=0", "objective.metric=test_accuracy"), 1)
    record = run.history[0]
    assert {"test_loss", "test_accuracy"} <= record.keys()
    assert not {"val_loss", "val_accuracy"} & record.keys()
    assert len(run.dataset.train) == 300
    run.model.eval()
    split = run.dataset.load_test()
    inputs = (split.images / 255 - run.dataset.mean[0]) / run.dataset.std[0]
    with torch.no_grad():
        correct = (run.model(inputs.float()).argmax(dim=1) == split.labels).double().mean()
    assert record["test_accuracy"] == pytest.approx(float(correct))


def test_an_objective_that_is_not_measured_is_refused() -> None:
    with pytest.raises(SpaceError, match=r"objective.*test_accuracy.*validation_fraction"):
        SearchSpace.from_yaml("digits.yaml", ["data.validation_fraction=0"])
    with pytest.raises(SpaceError, match=r"objective.*val_loss.*validation_fraction"):
        SearchSpace.from_yaml("digits.yaml", ["objective.metric=test_loss"])


# -- divergence ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["sam", "sgd"])
def test_a_divergence_says_what_preceded_it(make_run: Make, method: str) -> None:
    run = train(make_run(f"method.name={method}"), 1)
    record = run.history[0]
    with torch.no_grad():
        next(run.model.parameters()).fill_(torch.inf)
    with pytest.raises(DivergedError, match=r"^diverged: train_loss is nan in epoch 2 \(") as caught:
        run.train_epoch(2)
    message = str(caught.value)
    assert f"train_loss was {record['train_loss']:.2g} in epoch 1" in message
    assert f"the gradient's norm {record['gradient_norm']:.2g}" in message
    assert ("of the weights" in message) == (method == "sam")


def test_a_divergence_in_the_first_epoch_has_nothing_before_it(make_run: Make) -> None:
    run = make_run()
    with torch.no_grad():
        next(run.model.parameters()).fill_(torch.inf)
    with pytest.raises(DivergedError, match=r"^diverged: train_loss is nan in epoch 1$"):
        run.train_epoch(1)
