"""A LightningModule as a trial: Lightning's own Trainer on the ranks of a worker group."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.hosted import LocalHost, interrupt_and_resume, train
from helpers.ranks import run_ranks
from helpers.records import assert_records_agree

from samtune.config.space import SearchSpace
from samtune.config.trial import TrialSpec
from samtune.errors import UsageError
from samtune.train.loops import train_trial
from samtune.train.session import Place
from samtune.train.trial_state import TrainFunctionError

pytest.importorskip("lightning", reason="needs the extra `lightning`")
pytestmark = pytest.mark.filterwarnings("ignore")

CPU = torch.device("cpu")
WAYS = ["with_the_trial_s", "with_its_own", "with_lightning_s_loaders"]


def make_spec(function: str, module: str = "lightning_modules", **sections: Any) -> TrialSpec:
    space = {
        "name": "own",
        "train": f"helpers.{module}:{function}",
        "method": {"name": "sam", "rho": 0.1},
        "training": {"epochs": 3, "batch_size": 20, "lr": 0.1},
        "config": {"width": 8},
    }
    return SearchSpace.from_dict({**space, **sections}).trial({})


def ready(rank: int, num_ranks: int, module: str) -> None:
    importlib.import_module(module)


@pytest.fixture(scope="module")
def two_ranks() -> Callable[..., list[Any]]:
    """Calls a function on two ranks that have imported Lightning: that takes longer than all they do with it."""
    for module in ("torch", "lightning"):
        run_ranks(2, ready, module)
    return partial(run_ranks, 2)


def same(one: Any, other: Any) -> bool:
    return one[0] == other[0] and len(one[1]) > 0 and all(map(torch.equal, one[1], other[1]))


@pytest.mark.parametrize("function", WAYS)
def test_a_resumed_trial_is_the_uninterrupted_one_bit_for_bit(tmp_path: Path, function: str) -> None:
    """With dropout, augmentation, BatchNorm, a schedule by epoch and a callback that counts."""
    spec = make_spec(function)
    whole = train(0, 1, spec, str(tmp_path / "whole"))
    assert [record["epoch"] for record in whole[0]] == [1, 2, 3]
    assert [record["num_passes"] for record in whole[0]] == [2, 4, 6]
    assert all(math.isfinite(record[name]) for record in whole[0] for name in ("train_loss", "val_loss"))
    assert same(interrupt_and_resume(0, 1, spec, str(tmp_path / "resumed"), after=1), whole)


@pytest.mark.parametrize("function", WAYS[1:])
def test_two_ranks_report_the_same_and_resume_bit_for_bit(
    tmp_path: Path, function: str, two_ranks: Callable[..., list[Any]]
) -> None:
    spec = make_spec(function)
    whole = two_ranks(train, spec, str(tmp_path / "whole"))
    resumed = two_ranks(interrupt_and_resume, spec, str(tmp_path / "resumed"), after=2)
    assert whole[0][0] == whole[1][0]
    assert same(resumed[0], whole[0])
    assert same(resumed[1], whole[1])


@pytest.mark.parametrize(
    ("method", "ranks"),
    [
        ({"name": "sam", "rho": 0.5, "rho_schedule": "cosine"}, 1),
        ({"name": "sgd"}, 1),
        ({"name": "sam", "rho": 0.5}, 2),  # each rank has its own perturbation
        ({"name": "sam", "rho": 0.5, "m": "global"}, 2),
    ],
    ids=str,
)
def test_its_steps_are_those_of_train_step(
    tmp_path: Path, method: dict[str, Any], ranks: int, two_ranks: Callable[..., list[Any]]
) -> None:
    found = []
    for function, module in (("plain", "lightning_modules"), ("plain_step", "train_functions")):
        spec, folder = make_spec(function, module, method=method), str(tmp_path / function)
        found.append(train(0, 1, spec, folder) if ranks == 1 else two_ranks(train, spec, folder)[0])
    names = ("train_loss", "val_accuracy", "lr", "num_passes")
    one, other = ([{name: record[name] for name in names} for record in run[0]] for run in found)
    assert_records_agree(one, other, tolerance=1e-5)


def test_two_perturbations_are_not_one(tmp_path: Path, two_ranks: Callable[..., list[Any]]) -> None:
    """What the comparison above would not see if the ranks' perturbations were averaged in both."""
    records = [
        two_ranks(train, make_spec("plain", method={"name": "sam", "rho": 0.5, "m": m}), str(tmp_path / m))[0][0]
        for m in ("worker", "global")
    ]
    assert abs(records[0][-1]["train_loss"] - records[1][-1]["train_loss"]) > 1e-4


def test_the_module_knows_where_it_is_and_its_callbacks_too(tmp_path: Path) -> None:
    from helpers import lightning_modules

    spec = make_spec("with_its_own")
    train(0, 1, spec, str(tmp_path), until=2)
    module, counting = lightning_modules.LAST
    assert module.seen == [(0, 0), (0, 0), (1, 4), (1, 4)]  # at w and at w + ε̂ of the first of four steps
    assert counting.rates[::4] == [0.1, 0.05]
    history, _ = train(0, 1, spec, str(tmp_path))
    module, counting = lightning_modules.LAST
    assert module.seen == [(2, 8), (2, 8)]
    assert counting.rates[0] == 0.025
    assert [record["counted"] for record in history] == [1, 2, 3]


def test_a_trial_that_goes_on_from_another_s_checkpoint_keeps_its_own_values(tmp_path: Path) -> None:
    """As PBT does: the weights and the momentum of one, the learning rate and rho of the other."""
    train(0, 1, make_spec("with_the_trial_s"), str(tmp_path), until=1)
    training = {"epochs": 3, "batch_size": 20, "lr": 0.02}
    history, _ = train(0, 1, make_spec("with_the_trial_s", training=training), str(tmp_path))
    # The cosine at the last of 4 steps of each of 3 epochs: lr / 2 (1 + cos(pi t / 12)) at t = 3, 7, 11.
    expected = [lr / 2 * (1 + math.cos(math.pi * t / 12)) for lr, t in ((0.1, 3), (0.02, 7), (0.02, 11))]
    assert [record["lr"] for record in history] == pytest.approx(expected)


def test_precision_is_the_configuration_s_and_frozen_parts_stay_so(tmp_path: Path) -> None:
    training = {"epochs": 2, "batch_size": 20, "lr": 0.1, "precision": "bf16"}
    history, _ = train(0, 1, make_spec("frozen_in_part", training=training), str(tmp_path))
    assert [record["is_bf16"] for record in history] == [1, 1]
    assert [record["is_frozen"] for record in history] == [1, 1]


def test_a_confirmation_reports_the_test_set(tmp_path: Path) -> None:
    spec = make_spec("plain")
    spec = spec.model_copy(update={"data": spec.data.model_copy(update={"validation_fraction": 0.0})})
    host = LocalHost(str(tmp_path), metrics=["test_accuracy"])
    train_trial(spec, Place(0, 1, CPU), host)
    assert "test_accuracy" in host.history[-1]


@pytest.mark.parametrize(
    ("function", "kind", "message"),
    [
        ("takes_devices", UsageError, r"devices of the Trainer is the trial's: set it in the search space$"),
        ("takes_fewer_steps", UsageError, r"has 3 steps, not 4: pass steps_per_epoch=3$"),
        ("takes_a_network", UsageError, r"module must be a LightningModule \(got Sequential\)$"),
        ("takes_a_stream", UsageError, r"steps_per_epoch is needed: the loader does not tell"),
        ("ends_by_itself", TrainFunctionError, r"returned after 2 of 3 epochs: .*a scheduler ends a trial early$"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path: Path, function: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        train(0, 1, make_spec(function), str(tmp_path))
    assert "\n" not in str(caught.value)


def test_the_documented_program(program: Callable[[str], dict[str, Any]], tmp_path: Path) -> None:
    from samtune.user_code import name_function

    path = name_function(program("A LightningModule as a trial")["train"], "train")
    spec = make_spec("plain").model_copy(update={"train": path, "config": {"width": 4}})
    host = LocalHost(str(tmp_path), metrics=["val_loss"])
    train_trial(spec, Place(0, 1, CPU), host)
    assert host.history[-1]["val_loss"] < host.history[0]["val_loss"]
