"""Targets that are numbers: trained, measured and split as such, and what needs classes is refused in one line."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers.own_parts import linear
from helpers.ranks import run_ranks

from samtune.config.data import OwnDataConfig
from samtune.config.space import SearchSpace
from samtune.config.training import TrainingConfig
from samtune.config.trial import TrialSpec
from samtune.data import check_dataset, dataset_info
from samtune.errors import UsageError
from samtune.preflight import check_task
from samtune.train.loss import training_loss
from samtune.train.metrics import metric_by_name
from samtune.train.trial import TrialRun

CPU = torch.device("cpu")
METRICS = ["mae", "rmse", "r2"]


def space_of(*overrides: str, loss: str = "mse", metrics: list[str] = METRICS, **options: Any) -> SearchSpace:
    raw = {
        "name": "numbers",
        "data": {"name": "helpers.own_parts:linear", "options": options, "validation_fraction": 0.25},
        "model": {"name": "helpers.own_parts:make_net"},
        "method": {"name": "sam", "rho": 0.02, "m": 10},
        "training": {"epochs": 12, "batch_size": 20, "lr": 0.1, "loss": loss, "metrics": metrics},
    }
    return SearchSpace.from_dict(raw, overrides)


def train(rank: int, num_workers: int, spec: TrialSpec) -> dict[str, float]:
    run = TrialRun(spec, rank=rank, num_workers=num_workers, device=CPU)
    for epoch in range(1, spec.num_epochs + 1):
        record = run.train_epoch(epoch)
    return record


@pytest.mark.parametrize("options", [{}, {"width": 3}, {"dataset": True}])
def test_regression_is_learned(options: dict[str, Any]) -> None:
    record = train(0, 1, space_of(**options).trial({}))
    assert record["val_r2"] > 0.9
    assert record["val_rmse"] == pytest.approx(math.sqrt(record["val_loss"]), rel=1e-5)
    assert not [name for name in record if "accuracy" in name or "error" in name]


def test_several_labels_are_learned() -> None:
    spec = space_of(loss="bce_with_logits", metrics=[], width=3, binary=True).trial({})
    record = train(0, 1, spec)
    assert record["val_loss"] < 0.4 < math.log(2)
    assert not [name for name in record if "accuracy" in name]


def test_two_ranks_measure_what_one_does() -> None:
    """25% of 200 examples, less one: 49 and 50 do not divide alike, and every example counts once."""
    spec = space_of("data.num_train=197", "training.epochs=2", width=2).trial({})
    alone, both = train(0, 1, spec), run_ranks(2, train, spec)
    for name in ("train_loss", "val_loss", "val_mae", "val_rmse", "val_r2"):
        assert both[0][name] == both[1][name]
        assert both[0][name] == pytest.approx(alone[name], rel=1e-4)


def test_metrics_in_closed_form() -> None:
    outputs, targets = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([1.0, 3.0, 8.0])
    measured = {name: metric_by_name(name) for name in METRICS}
    found = {name: metric.value(metric.parts(outputs, targets)) for name, metric in measured.items()}
    assert found["mae"] == pytest.approx(5 / 3)
    assert found["rmse"] == pytest.approx(math.sqrt(17 / 3))
    assert found["r2"] == pytest.approx(1 - 17 / 26)  # the targets' squares about their mean 4: 9 + 1 + 16


def test_a_column_of_outputs_is_not_broadcast() -> None:
    outputs, targets = torch.tensor([[1.0], [3.0]]), torch.tensor([1.0, 3.0])
    for loss in ("mse", "l1", "huber"):
        assert float(training_loss(TrainingConfig(loss=loss))(outputs, targets)) == 0.0
    with pytest.raises(UsageError, match=r"shape of a target \(the network gives \(2,\), a target \(\)\)"):
        training_loss(TrainingConfig(loss="mse"))(torch.zeros(2, 2), targets)


def test_the_default_objective_is_the_loss() -> None:
    assert (space_of().objective.metric, space_of().objective.mode) == ("val_loss", "min")
    assert space_of("objective.metric=val_r2").objective.mode == "max"
    for metric in ("val_accuracy", "train_accuracy"):
        with pytest.raises(UsageError, match=metric):
            space_of(f"objective.metric={metric}")


def test_sizes() -> None:
    info = dataset_info(OwnDataConfig(name="helpers.own_parts:linear", options={"width": 3}))
    assert (info.num_classes, info.classes, info.num_train) == (3, False, 180)
    assert linear(3)[0][1].shape == (200, 3)


@pytest.mark.parametrize("wrong", [{"label_noise": 0.1}, {"mixup": 0.2}, {"cutmix": 1.0}, {"relabel": "net"}])
def test_what_needs_classes_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=rf"data\.{next(iter(wrong))}: needs targets that are classes"):
        check_dataset(OwnDataConfig(name="helpers.own_parts:linear", **wrong))


def test_losses_and_metrics_that_do_not_suit_the_targets() -> None:
    with pytest.raises(UsageError, match="cross_entropy needs targets that are classes"):
        check_task(TrainingConfig(), classes=False)
    with pytest.raises(UsageError, match="mse needs targets that are numbers, and the data has classes"):
        check_task(TrainingConfig(loss="mse"), classes=True)
    with pytest.raises(UsageError, match="top5_accuracy does not suit the targets of loss mse"):
        space_of(metrics=["top5_accuracy"])
    with pytest.raises(UsageError, match="label_smoothing needs loss cross_entropy"):
        space_of("training.label_smoothing=0.1")
