"""Metrics of torchmetrics: a state over an evaluation, reduced over the workers, against scikit-learn's numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.ranks import run_ranks

from samtune.config.space import SearchSpace
from samtune.config.trial import TrialSpec
from samtune.errors import UsageError
from samtune.preflight import check_training
from samtune.train.first_batch import FirstBatchError, try_first_batch
from samtune.train.trial import TrialRun

pytest.importorskip("torchmetrics", reason="needs the extra `integrations`")
HERE = "helpers.stateful_metrics:"
CPU = torch.device("cpu")


def spec_of(*metrics: str, data: str = "blobs", **training: Any) -> TrialSpec:
    raw = {
        "name": "stateful",
        "data": {"name": f"helpers.own_parts:{data}", "validation_fraction": 0.25},
        "model": {"name": "helpers.own_parts:make_net"},
        "method": "sam",
        "training": {
            "epochs": 2,
            "batch_size": 10,
            "lr": 0.02,
            "metrics": [HERE + name for name in metrics],
            **training,
        },
    }
    return SearchSpace.from_dict(raw).trial({})


def trained(spec: TrialSpec, rank: int = 0, num_workers: int = 1) -> TrialRun:
    run = TrialRun(spec, rank=rank, num_workers=num_workers, device=CPU)
    for epoch in (1, 2):
        run.train_epoch(epoch)
    return run


def importing(rank: int, num_workers: int) -> None:
    """torchmetrics takes 5 s of CPU to import: apart from the training, each has the whole of the ranks' time limit."""
    import torchmetrics  # noqa: F401


def on_ranks(rank: int, num_workers: int, spec: TrialSpec) -> dict[str, float]:
    return trained(spec, rank, num_workers).history[-1]


def test_a_state_over_the_evaluation_is_no_mean_over_batches() -> None:
    """Batches of 7 of 50 examples; the second epoch has forgotten the first."""
    from sklearn.metrics import f1_score, roc_auc_score

    run = trained(spec_of("f1", "auroc", evaluation_batch=7))
    validation = run.dataset.validation
    with torch.no_grad():
        logits = run.model(validation.images)
    last = run.history[-1]
    assert last["val_f1"] == pytest.approx(f1_score(validation.labels, logits.argmax(1), average="macro"))
    assert last["val_auroc"] == pytest.approx(roc_auc_score(validation.labels, logits.softmax(1)[:, 1]), abs=1e-6)
    assert last["val_f1"] != pytest.approx(last["val_accuracy"], abs=1e-9)


def test_two_ranks_reduce_to_the_state_of_one() -> None:
    """The epochs after the first differ by rounding only, far from any decision of the metric's."""
    spec = spec_of("f1", "auroc")
    run_ranks(2, importing)
    alone, both = trained(spec).history[-1], run_ranks(2, on_ranks, spec)
    for name in ("val_f1", "val_auroc"):
        assert both[0][name] == both[1][name] == pytest.approx(alone[name], abs=1e-6)


def test_columns_of_outputs_are_compared_with_numbers() -> None:
    last = trained(spec_of("mse", data="linear", loss="mse")).history[-1]
    assert last["val_mse"] == pytest.approx(last["val_loss"], rel=1e-5)


def test_an_object_may_stand_in_a_space() -> None:
    from helpers.stateful_metrics import f1

    raw = spec_of().model_dump(exclude_unset=True)
    raw["training"]["metrics"] = [f1]
    space = SearchSpace.from_dict(
        {"name": "given", **raw, "objective": {"metric": "val_MulticlassF1Score", "mode": "max"}}
    )
    assert "val_MulticlassF1Score" in trained(space.trial({})).history[-1]


def test_the_checks_before_a_search_take_an_object() -> None:
    for import_code in (True, False):
        check_training(spec_of("f1").training, import_code=import_code)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("per_class", r"per_class must compute one number \(it computed a tensor \(2,\)\)"),
        ("MulticlassF1Score", "MulticlassF1Score is a class: name an object of it that a module has at its top level"),
    ],
)
def test_what_is_no_metric_object_is_one_line_before_any_worker_starts(name: str, problem: str) -> None:
    with pytest.raises(FirstBatchError, match=problem) as caught:
        try_first_batch(spec_of(name), 1, CPU)
    assert isinstance(caught.value.__cause__, UsageError)
