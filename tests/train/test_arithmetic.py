"""What `auto` stands for: decided from what a device can do, and kept in a trial's checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from samtune.config.training import TrainingConfig
from samtune.train.arithmetic import Arithmetic, Capabilities
from samtune.train.checkpoint import CheckpointFolder
from samtune.train.memory_order import has_convolutions, runs_in_channels_last
from samtune.train.trial import TrialRun

CPU, V100, T4 = Capabilities("cpu"), Capabilities("cuda", (7, 0)), Capabilities("cuda", (7, 5))
A100, H100, PASCAL = Capabilities("cuda", (8, 0)), Capabilities("cuda", (9, 0)), Capabilities("cuda", (6, 1))
AMD = Capabilities("cuda", None)
ONEDNN = Capabilities("cpu", has_onednn=True)

Make = Callable[..., TrialRun]


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        (CPU, Arithmetic("fp32", None, channels_last=False, benchmark=False)),
        (ONEDNN, Arithmetic("fp32", None, channels_last=True, benchmark=False)),
        (AMD, Arithmetic("fp32", None, channels_last=False, benchmark=False)),
        (PASCAL, Arithmetic("fp32", None, channels_last=False, benchmark=True)),
        (V100, Arithmetic("fp32", None, channels_last=True, benchmark=True)),
        (T4, Arithmetic("fp32", None, channels_last=True, benchmark=True)),
        (A100, Arithmetic("bf16", True, channels_last=True, benchmark=True)),
        (H100, Arithmetic("bf16", True, channels_last=True, benchmark=True)),
    ],
)
def test_auto_is_what_the_device_has(device, expected):
    assert Arithmetic.chosen(TrainingConfig(), device) == expected


@pytest.mark.parametrize("device", [ONEDNN, V100])
def test_a_network_without_convolutions_keeps_its_inputs_as_they_are(device):
    assert not Arithmetic.chosen(TrainingConfig(), device, may_be_channels_last=False).channels_last


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")
def test_a_cpu_trains_convolutions_in_channels_last_order(make_run: Make):
    run = make_run()
    assert run.arithmetic.channels_last
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in run.model.parameters() if p.ndim == 4)
    own = make_run("training.channels_last=false")
    assert not own.arithmetic.channels_last
    ours, theirs = run.train_epoch(1), own.train_epoch(1)
    assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-4)


class Flattening(nn.Module):
    """Takes either order."""

    dropout = 0.5  # its mask follows the order of the memory

    def __init__(self, num_classes: int, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * 6 * 6, num_classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        features = torch.dropout(self.norm(self.convolution(inputs)), self.dropout, self.training)
        return self.head(self.flat(features))

    def flat(self, features: torch.Tensor) -> torch.Tensor:
        return features.flatten(1)


class Viewing(Flattening):
    """Flattens as torch's tutorials do, which takes memory in torch's own order."""

    def flat(self, features: torch.Tensor) -> torch.Tensor:
        return features.view(len(features), -1)


class Heads(Flattening):
    """Splits channels as attention does. Of one example, `view` can do that in either order."""

    def flat(self, features: torch.Tensor) -> torch.Tensor:
        return features.view(2 * len(features), 2, *features.shape[2:]).reshape(len(features), -1)


class Volumes(Flattening):
    """Has a weight that torch refuses to bring into channels-last order of images."""

    def __init__(self, num_classes: int, input_shape: tuple[int, ...]) -> None:
        super().__init__(num_classes, input_shape)
        self.register_buffer("volume", torch.zeros(1, 1, 2, 2, 2))


@pytest.mark.parametrize(("network", "fits"), [(Flattening, True), (Viewing, False), (Heads, False)])
def test_whether_the_order_suits_is_found_without_a_trace(network: Any, fits: bool):
    model = network(10, (1, 8, 8)).to(memory_format=torch.channels_last)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    numbers = torch.random.get_rng_state()
    inputs = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert runs_in_channels_last(model, inputs) is fits
    assert model.training
    assert torch.equal(torch.random.get_rng_state(), numbers)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_the_order_is_not_asked_of_a_network_that_torch_refuses_it_for():
    assert has_convolutions(Flattening(10, (1, 8, 8)))
    assert not has_convolutions(Volumes(10, (1, 8, 8)))
    with pytest.raises(RuntimeError, match="rank 4"):
        Volumes(10, (1, 8, 8)).to(memory_format=torch.channels_last)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")
@pytest.mark.parametrize(("network", "fits"), [(Flattening, True), (Heads, False), (Volumes, False)])
def test_a_network_of_the_user_s_that_the_order_does_not_suit_keeps_torch_s(
    make_run: Make, network: Any, fits: bool, monkeypatch: pytest.MonkeyPatch
):
    """On a device that trains the user's own code in channels-last order: a card, for which this CPU stands here."""
    model = f"model.name={__name__}:{network.__name__}"
    monkeypatch.setattr("samtune.train.memory_order._has_own_code", lambda spec: False)
    monkeypatch.setattr(Flattening, "dropout", 0.0)
    own = make_run(model, "training.channels_last=false")
    numbers = torch.random.get_rng_state()
    run = make_run(model)
    assert run.arithmetic.channels_last is fits
    assert torch.equal(torch.random.get_rng_state(), numbers)
    assert run.train_epoch(1)["train_loss"] == pytest.approx(own.train_epoch(1)["train_loss"], rel=1e-4)


def view_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs.view(len(outputs), -1), targets)


def view_metric(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs.view(len(outputs), -1).argmax(dim=1) == targets).float().mean()


@pytest.mark.parametrize(
    "setting",
    [
        f"model.name={__name__}:Flattening",
        f"training.loss={__name__}:view_loss",
        f'training.metrics=["accuracy", "{__name__}:view_metric"]',
    ],
)
def test_a_cpu_keeps_torch_s_order_where_a_part_is_the_user_s(make_run: Make, setting: str):
    """What was written for a CPU may use `view`; no check of samtune's sees all of it."""
    run = make_run(setting)
    assert not run.arithmetic.channels_last
    run.train_epoch(1)
    assert make_run(setting, "training.channels_last=true").arithmetic.channels_last


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")
def test_an_average_of_the_weights_changes_its_order_with_them(make_run: Make, tmp_path: Path):
    first = make_run("training.ema=0.9", "training.channels_last=false")
    first.train_epoch(1)
    first.save(CheckpointFolder(str(tmp_path)))
    second = make_run("training.ema=0.9")
    assert second.arithmetic.channels_last
    second.restore(CheckpointFolder(str(tmp_path)))
    for network in (second.model, second.evaluated_model):
        assert all(parameter.is_contiguous() for parameter in network.parameters())


@pytest.mark.parametrize("device", [CPU, ONEDNN, V100, A100])
def test_what_is_written_counts(device):
    config = TrainingConfig(precision="fp16", tf32=False, channels_last=False)
    found = Arithmetic.chosen(config, device)
    assert (found.precision, found.channels_last) == ("fp16", False)
    assert found.tf32 is (None if device.kind == "cpu" else False)
    assert Arithmetic.chosen(TrainingConfig(channels_last=True), CPU).channels_last


def test_a_trial_goes_on_as_it_began_whatever_its_next_card_has():
    began = Arithmetic.chosen(TrainingConfig(), A100)
    here = Arithmetic.chosen(TrainingConfig(), V100)
    assert here.resumed(TrainingConfig(), began.state()) == began


def test_a_cpu_goes_on_in_the_card_s_precision_and_leaves_torch_s_tf32_alone():
    found = Arithmetic.chosen(TrainingConfig(), CPU).resumed(
        TrainingConfig(), Arithmetic.chosen(TrainingConfig(), A100).state()
    )
    assert found == Arithmetic("bf16", None, channels_last=True, benchmark=False)


def test_a_checkpoint_of_an_earlier_version_goes_on_with_that_version_s_defaults():
    found = Arithmetic.chosen(TrainingConfig(), A100).resumed(TrainingConfig(), None)
    assert found == Arithmetic("fp32", None, channels_last=False, benchmark=True)


def test_another_trial_s_state_does_not_change_what_the_configuration_names():
    own = TrainingConfig(precision="fp32", tf32=False, channels_last=False)
    other = Arithmetic.chosen(TrainingConfig(), A100).state()
    assert Arithmetic.chosen(own, A100).resumed(own, other) == Arithmetic.chosen(own, A100)


def test_what_torch_keeps_for_the_process_is_as_before_afterwards():
    def settings():
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark

    before = settings()
    with Arithmetic(tf32=True, benchmark=True).in_force():
        assert settings() == (True, True, True)
    assert settings() == before
    with Arithmetic().in_force():
        assert settings() == before


def test_a_trial_s_checkpoint_keeps_how_it_computes(make_run: Make, tmp_path: Path):
    first = make_run("training.precision=auto")
    first.arithmetic = Arithmetic("bf16", channels_last=False)  # as another device would have had it
    first.save(CheckpointFolder(str(tmp_path)))
    second = make_run("training.precision=auto")
    assert second.arithmetic.precision == "fp32"
    second.restore(CheckpointFolder(str(tmp_path)))
    assert (second.arithmetic.precision, second.arithmetic.channels_last) == ("bf16", False)
    assert all(parameter.is_contiguous() for parameter in second.model.parameters())
    with second.train_step.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


class Limited(nn.Module):
    """A network on a device whose memory takes forwards of so many examples."""

    def __init__(self, inner: nn.Module, most: int) -> None:
        super().__init__()
        self.inner, self.most, self.sizes = inner, most, []

    def forward(self, inputs):
        self.sizes.append(len(inputs))
        if len(inputs) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self.inner(inputs)


def test_an_evaluation_that_does_not_fit_is_halved_and_stays_so(make_run: Make):
    run = make_run("data.num_train=1200")
    split = run.dataset.validation
    whole = run.evaluate(split)
    run.model = limited = Limited(run.model, 100)
    assert run.evaluate(split) == pytest.approx(whole)
    tried, limited.sizes = limited.sizes, []
    assert max(tried) > 100
    assert run.evaluate(split) == pytest.approx(whole)
    assert max(limited.sizes) <= 100
    assert sum(limited.sizes) == len(split)


def test_an_evaluation_batch_that_is_written_is_kept_to(make_run: Make):
    run = make_run("training.evaluation_batch=16")
    run.model = limited = Limited(run.model, 16)
    run.evaluate(run.dataset.validation)
    assert max(limited.sizes) == 16
    limited.most = 15
    with pytest.raises(torch.OutOfMemoryError):
        run.evaluate(run.dataset.validation)


def test_one_example_that_does_not_fit_is_an_error(make_run: Make):
    run = make_run()
    run.model = Limited(run.model, 0)
    with pytest.raises(torch.OutOfMemoryError):
        run.evaluate(run.dataset.validation)
