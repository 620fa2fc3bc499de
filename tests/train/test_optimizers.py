"""The base optimizer by name or import path, its options, and groups of parameters."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from samtune.config.optimizer import TORCH_OPTIMIZERS
from samtune.config.space import SearchSpace
from samtune.config.training import TrainingConfig
from samtune.errors import SpaceError, UsageError
from samtune.preflight import check_training
from samtune.train.checkpoint import CheckpointFolder
from samtune.train.optimizers import base_optimizer
from samtune.train.trial import TrialRun

Make = Callable[..., TrialRun]


def matrix() -> nn.Module:
    return nn.Linear(3, 3, bias=False)  # Muon takes matrices alone


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))


class Halving(torch.optim.SGD):
    """An optimizer of the user's: it takes any options but no `weight_decay` by name."""

    def __init__(self, params: Any, lr: float, scale: float = 0.5, **options: Any) -> None:
        super().__init__(params, lr=lr * scale, **options)


class Strict(torch.optim.SGD):
    """One that takes two arguments and nothing else."""

    def __init__(self, params: Any, lr: float, scale: float = 0.5) -> None:
        super().__init__(params, lr=lr * scale)


class Counting(torch.optim.SGD):
    """One that keeps state in its groups, as Prodigy and schedule-free optimizers do, and uses what it is given."""

    def __init__(self, params: Any, lr: float, **options: Any) -> None:
        self.limit = options.pop("limit", 3)
        super().__init__(params, lr=lr, **options)
        for group in self.param_groups:
            group["scale"] = 1.0

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad *= group["scale"]
            group["scale"] /= 2
        return super().step(closure)


class Evaluating(torch.optim.SGD):
    """One that evaluates the loss itself."""

    def step(self, closure: Any) -> Any:  # type: ignore[override]
        return super().step(closure)


class Hoarding(torch.optim.SGD):
    """One whose state is more than tensors, numbers and text."""

    def step(self, closure: Any = None) -> Any:
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter]["past"] = deque([1.0])
        return super().step(closure)


def own(name: str, **options: Any) -> TrainingConfig:
    return TrainingConfig.model_validate({"optimizer": {"name": f"{__name__}:{name}", **options}, "lr": 0.1})


def test_sgd_and_adamw_are_built_as_before() -> None:
    sgd = base_optimizer(TrainingConfig(lr=0.2, momentum=0.8, nesterov=True, weight_decay=0.1), network())
    assert type(sgd) is torch.optim.SGD
    assert {key: sgd.defaults[key] for key in ("lr", "momentum", "nesterov", "weight_decay")} == {
        "lr": 0.2,
        "momentum": 0.8,
        "nesterov": True,
        "weight_decay": 0.1,
    }
    adamw = base_optimizer(TrainingConfig(optimizer="adamw", momentum=0.8), network())
    assert type(adamw) is torch.optim.AdamW
    assert adamw.defaults["betas"] == (0.8, 0.999)


@pytest.mark.parametrize("name", sorted(TORCH_OPTIMIZERS))
def test_each_of_torch_s_takes_a_step(name: str) -> None:
    model = matrix()
    before = model.weight.detach().clone()
    optimizer = base_optimizer(TrainingConfig.model_validate({"optimizer": name, "lr": 0.1}), model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert not torch.equal(model.weight, before)
    assert type(optimizer).__name__.lower() == name


def test_options_reach_the_constructor() -> None:
    config = TrainingConfig.model_validate({"optimizer": {"name": "adamw", "betas": [0.9, 0.95], "amsgrad": True}})
    defaults = base_optimizer(config, network()).defaults
    assert (defaults["betas"], defaults["amsgrad"]) == ((0.9, 0.95), True)


def test_a_class_of_the_user_s() -> None:
    path = f"{__name__}:Halving"
    config = TrainingConfig.model_validate({"optimizer": {"name": path, "scale": 0.25}, "lr": 0.4, "weight_decay": 0.3})
    optimizer = base_optimizer(config, network())
    assert isinstance(optimizer, torch.optim.SGD)
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (pytest.approx(0.1), 0.3)


def test_the_optimizer_s_own_refusal_is_one_line() -> None:
    config = TrainingConfig.model_validate({"optimizer": {"name": "adamw", "betas": [0.9, 1.5]}})
    with pytest.raises(
        UsageError, match=r"^training\.optimizer: adamw refuses its options or parameters: Invalid beta"
    ):
        base_optimizer(config, network())


def test_an_optimizer_that_needs_a_closure_is_refused() -> None:
    config = TrainingConfig.model_validate({"optimizer": f"{__name__}:Evaluating"})
    with pytest.raises(UsageError, match=r"^training\.optimizer: .*:Evaluating needs a closure in each step"):
        base_optimizer(config, matrix())


# -- checkpoints ---------------------------------------------------------------------------------------------

LIBRARY = ("pytorch_optimizer:Lion", "pytorch_optimizer:Prodigy", "pytorch_optimizer:ScheduleFreeSGD")


@pytest.mark.parametrize("optimizer", [*sorted({*TORCH_OPTIMIZERS} - {"muon"}), *LIBRARY, f"{__name__}:Counting"])
def test_a_restored_trial_goes_on_bit_for_bit(optimizer: str, make_run: Make, tmp_path: Path) -> None:
    if optimizer in LIBRARY:
        pytest.importorskip("pytorch_optimizer", reason="needs the extra `bench`")
    overrides = (
        f"training.optimizer={optimizer}",
        "training.lr=0.01",
        "training.nesterov=false",
        "training.momentum=0.5",
        "data.num_train=64",
        "training.batch_size=32",
    )
    whole, resumed, fresh = make_run(*overrides), make_run(*overrides), make_run(*overrides)
    whole.train_epoch(1)
    checkpoints = CheckpointFolder(str(tmp_path / "checkpoints"))
    whole.save(checkpoints)
    resumed.restore(checkpoints)
    fresh.model.load_state_dict(whole.model.state_dict())
    for run in (whole, resumed, fresh):
        run.train_epoch(2)
    assert same_weights(resumed, whole)
    if optimizer != "sgd":
        assert not same_weights(fresh, whole)  # there was a state to be restored


def same_weights(one: TrialRun, other: TrialRun) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True))


def test_a_state_that_no_checkpoint_can_hold_is_refused_when_it_is_saved(make_run: Make, tmp_path: Path) -> None:
    run = make_run(f"training.optimizer={__name__}:Hoarding", "training.nesterov=false", "training.batch_size=32")
    run.train_epoch(1)
    with pytest.raises(UsageError, match=r"^training\.optimizer: the state of .*:Hoarding\.state\.0\.past cannot"):
        run.save(CheckpointFolder(str(tmp_path / "checkpoints")))


# -- groups of parameters ------------------------------------------------------------------------------------


def groups_of(*groups: dict[str, Any], **training: Any) -> dict[str, dict[str, Any]]:
    """Of each parameter its group's settings."""
    model = network()
    optimizer = base_optimizer(TrainingConfig.model_validate({"groups": list(groups), **training}), model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: group for group in optimizer.param_groups for p in group["params"]}


def test_a_parameter_is_in_the_first_group_that_it_matches() -> None:
    found = groups_of(
        {"match": r"^2\.", "lr_factor": 10, "weight_decay_factor": 2},
        {"match": "bias", "weight_decay": 0, "rho_factor": 0},
        lr=0.5,
        weight_decay=0.1,
    )
    assert {name: (g["lr"], g["weight_decay"], g.get("rho_factor", 1)) for name, g in found.items()} == {
        "0.weight": (0.5, 0.1, 1),
        "1.weight": (0.5, 0.1, 1),
        "0.bias": (0.5, 0.0, 0),
        "1.bias": (0.5, 0.0, 0),
        "2.weight": (5.0, 0.2, 1),
        "2.bias": (5.0, 0.2, 1),
    }


def test_norms_and_biases_are_spared_unless_their_group_says_otherwise() -> None:
    found = groups_of(
        {"match": r"^0\.", "lr_factor": 2},
        {"match": r"^2\.", "weight_decay": 0.3},
        weight_decay=0.1,
        decay_norms_and_biases=False,
    )
    assert {name: group["weight_decay"] for name, group in found.items()} == {
        "0.weight": 0.1,
        "0.bias": 0.0,
        "1.weight": 0.0,
        "1.bias": 0.0,
        "2.weight": 0.3,
        "2.bias": 0.3,
    }


def test_without_patterns_the_groups_do_not_depend_on_the_network() -> None:
    config = TrainingConfig(decay_norms_and_biases=False)
    assert (
        len(base_optimizer(config, matrix()).param_groups) == len(base_optimizer(config, network()).param_groups) == 2
    )


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^training\.groups\.1\.match: 'head' matches no parameter \(names are 0\.w"):
        groups_of({"match": "bias"}, {"match": "head"})


def test_the_schedule_keeps_a_group_s_factor_and_a_resumed_trial_too(make_run: Make, tmp_path: Path) -> None:
    overrides = (
        "training.groups=[{match: weight, lr_factor: 0.5, rho_factor: 0.1}]",
        "training.optimizer={name: rmsprop, alpha: 0.9}",
        "training.lr=0.001",
        "training.nesterov=false",
    )
    whole = make_run(*overrides)
    whole.train_epoch(1)
    last = [group["lr"] for group in whole.optimizer.param_groups]
    assert last[1] == pytest.approx(0.5 * last[0], rel=1e-12)
    checkpoints = CheckpointFolder(str(tmp_path / "checkpoints"))
    whole.save(checkpoints)
    resumed = make_run(*overrides)
    resumed.restore(checkpoints)
    for run in (whole, resumed):
        run.train_epoch(2)
    for ours, theirs in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("import_code", [True, False])
def test_a_class_of_the_user_s_is_checked_before_a_worker_starts(import_code: bool) -> None:
    def check(**options: Any) -> None:
        config = TrainingConfig.model_validate({"optimizer": {"name": f"{__name__}:Strict", **options}})
        check_training(config, import_code=import_code)

    check(scale=0.25)
    with pytest.raises(UsageError, match=r"^training\.optimizer\.scael: unknown option .*; did you mean 'scale'\?"):
        check(scael=0.25)


def test_an_option_that_a_class_with_any_options_does_not_use_is_refused() -> None:
    check_training(own("Counting", limit=2, dampening=0.1))  # one that it takes out, one of its base
    with pytest.raises(UsageError, match=r"optimizer\.dampning: unknown option .*; did you mean 'dampening'"):
        check_training(own("Counting", dampning=0.1))


def test_an_option_that_a_library_s_class_ignores_is_refused() -> None:
    pytest.importorskip("pytorch_optimizer", reason="needs the extra `bench`")
    name = "pytorch_optimizer:Lion"
    check_training(TrainingConfig.model_validate({"optimizer": {"name": name, "betas": [0.9, 0.98]}}))
    config = TrainingConfig.model_validate({"optimizer": {"name": name, "beta": [0.9, 0.98]}})
    with pytest.raises(UsageError, match=r"^training\.optimizer\.beta: unknown option of .*; did you mean 'betas'\?$"):
        check_training(config)


# -- in a space ------------------------------------------------------------------------------------------------


def space(optimizer: Any, **training: Any) -> SearchSpace:
    return SearchSpace.from_dict(
        {
            "name": "small",
            "data": "digits",
            "model": "digits_cnn",
            "method": {"name": "sam"},
            "training": {"epochs": 2, "optimizer": optimizer, **training},
        }
    )


def test_options_are_searched_like_any_key() -> None:
    trial = space({"name": "rmsprop", "alpha": {"uniform": [0.9, 0.99]}}).trial({"training.optimizer.alpha": 0.95})
    assert trial.training.optimizer_options == {"alpha": 0.95}
    assert trial.params()["training.optimizer.alpha"] == 0.95
    assert trial.params()["training.optimizer.name"] == "rmsprop"


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ("adamv", "training.optimizer: unknown optimizer 'adamv'; did you mean"),
        ({"name": "adamw", "beta": 1}, "training.optimizer.beta: unknown option of adamw; did you mean 'betas'?"),
        ({"name": "adamw", "lr": 1}, "training.optimizer.lr: is set by training.lr"),
        ({"betas": [0.9, 0.95]}, "training.optimizer.name: is required"),
        ({"name": "rmsprop", "maximize": True}, "training.optimizer.maximize: must not be given"),
    ],
)
def test_wrong_options_are_refused_before_a_worker_starts(optimizer: Any, message: str) -> None:
    with pytest.raises(SpaceError) as caught:
        space(optimizer)
    assert message in str(caught.value)


def test_a_pattern_must_compile() -> None:
    with pytest.raises(SpaceError, match=r"training\.groups\.0\.match: must be a regular expression"):
        space("sgd", groups=[{"match": "("}])


# -- fused kernels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_cpu_has_torch_s_loop(name: str) -> None:
    """torch's fused kernels for CPUs go through the memory of weights and gradients without a look at their strides.

    Where these differ (a gradient in another order, or an expanded one) the step is wrong, and nothing is said.
    """
    model = nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
    optimizer = base_optimizer(TrainingConfig(optimizer=name, momentum=0.0, weight_decay=0.0, lr=0.1), model)
    weight = model.weight.detach().clone()
    model.weight.grad = torch.randn(3, 2, 3, 3, generator=torch.Generator().manual_seed(0))  # torch's own order
    optimizer.step()
    moved = weight - model.weight.detach()
    expected = 0.1 * (model.weight.grad if name == "sgd" else model.weight.grad.sign())
    torch.testing.assert_close(moved, expected, rtol=1e-3, atol=1e-6, check_stride=False)
