"""Inputs, targets and outputs in any structure of tensors: trained and measured exactly as one tensor is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.nested_parts import load, reconstruction
from helpers.ranks import run_ranks
from helpers.records import assert_records_agree
from torch import nn

from samtune.config.data import OwnDataConfig
from samtune.config.model import MlpConfig
from samtune.config.space import SearchSpace
from samtune.config.training import TrainingConfig
from samtune.config.trial import TrialSpec
from samtune.data import check_dataset, dataset_info
from samtune.errors import DatasetError, UsageError
from samtune.models.saved import load_model
from samtune.preflight import check_model, check_task
from samtune.train.bootstrap import predictions
from samtune.train.trial import TrialRun

CPU = torch.device("cpu")
TIMES = ("train_seconds", "epoch_seconds")


def spec_of(form: str, returns: str = "tensor", method: dict[str, Any] | None = None, **training: Any) -> TrialSpec:
    raw = {
        "name": "nested",
        "data": {"name": "helpers.nested_parts:load", "options": {"form": form}, "validation_fraction": 0.2},
        "model": {"name": "helpers.nested_parts:make_net", "options": {"returns": returns}},
        "method": method or {"name": "sam", "rho": 0.05, "m": 3},
        "training": {"epochs": 2, "batch_size": 12, "lr": 0.1, **training},
    }
    return SearchSpace.from_dict(raw).trial({})


def trained(rank: int, num_workers: int, spec: TrialSpec) -> TrialRun:
    run = TrialRun(spec, rank=rank, num_workers=num_workers, device=CPU)
    for epoch in range(1, spec.num_epochs + 1):
        run.train_epoch(epoch)
    return run


def record(rank: int, num_workers: int, spec: TrialSpec) -> dict[str, float]:
    last = trained(rank, num_workers, spec).history[-1]
    return {name: value for name, value in last.items() if name not in TIMES}


@pytest.mark.parametrize(
    "method",
    [
        {"name": "sam", "rho": 0.05, "m": 3},
        {"name": "esam", "rho": 0.05},  # weighs the examples of a batch
        {"name": "mesa", "rho": 0.05},  # looks at the outputs at other weights
        {"name": "sgd"},
    ],
    ids=lambda method: method["name"],
)
def test_every_form_trains_bit_for_bit_as_one_tensor(method: dict[str, Any]) -> None:
    """`diagnostics` goes through the sharpness measures as well."""
    options = {"method": method, "diagnostics": {"m_sharpness": 2, "lambda_max": 2}}
    flat = record(0, 1, spec_of("flat", **options))
    assert flat["val_accuracy"] > 0.7
    assert "m_sharpness" in flat
    for form in ("dict", "tuple", "dataset"):
        assert record(0, 1, spec_of(form, **options)) == flat
    assert record(0, 1, spec_of("labelled", "dict", **options)) == flat


def test_a_network_may_return_an_object_and_the_loss_gets_it() -> None:
    flat = record(0, 1, spec_of("flat"))
    assert record(0, 1, spec_of("labelled", "object", loss="helpers.nested_parts:loss_of_object")) == flat


def test_nested_targets() -> None:
    """The validation set is not stratified, so it is not that of the flat form."""
    run = trained(0, 1, spec_of("nested_targets", loss="helpers.nested_parts:masked_loss"))
    validation, last = run.dataset.validation, run.history[-1]
    with torch.no_grad():
        by_hand = nn.functional.cross_entropy(run.model(validation.images), validation.labels["classes"])
    assert last["val_loss"] == pytest.approx(float(by_hand), rel=1e-6)
    assert last["val_loss"] < run.history[0]["val_loss"]
    assert not [name for name in last if "accuracy" in name]


def test_without_targets_the_loss_gets_the_inputs() -> None:
    spec = spec_of("no_targets", loss="helpers.nested_parts:reconstruction")
    spec = TrialSpec.model_validate(
        {**spec.model_dump(exclude_unset=True), "model": {"name": "helpers.nested_parts:make_autoencoder"}}
    )
    run = trained(0, 1, spec)
    inputs = run.dataset.validation.images
    with torch.no_grad():
        by_hand = float(reconstruction(run.model(inputs), inputs))
    assert run.history[-1]["val_loss"] == pytest.approx(by_hand, rel=1e-6)
    assert run.history[-1]["val_loss"] < run.history[0]["val_loss"]


def test_two_ranks_have_their_rows_of_every_tensor() -> None:
    """20% of 90 examples are 18, so that both evaluate 9; a batch of 12 has two groups of 3 on each rank."""
    spec = spec_of("labelled", "object")
    alone, both = record(0, 1, spec), run_ranks(2, record, spec)
    names = ("train_loss", "val_loss", "val_accuracy", "sharpness")
    assert all(both[0][name] == both[1][name] for name in names)
    one, two = ({name: record[name] for name in names} for record in (alone, both[0]))
    assert_records_agree([two], [one], tolerance=1e-4)


def test_a_saved_network_takes_nested_inputs(tmp_path: Path) -> None:
    from helpers.nested_parts import make_net

    run = trained(0, 1, spec_of("dict"))
    path = str(tmp_path / "best.safetensors")
    run.save_weights(path)
    inputs = load("dict")[1][0]
    run.model.eval()
    assert torch.equal(load_model(path, model=make_net)(inputs), run.model(**inputs))


def test_shapes_have_the_structure_of_the_inputs() -> None:
    info = dataset_info(spec_of("dict").data)
    assert (info.input_shape, info.num_classes, info.classes) == ({"left": (2,), "right": (2,)}, 2, True)
    info = dataset_info(spec_of("tuple").data)
    assert info.input_shape == ((2,), ((2,),))
    info = dataset_info(spec_of("no_targets").data)
    assert (info.num_classes, info.classes, info.one_target) == (0, False, False)


def test_what_does_not_suit_nested_data_is_refused() -> None:
    with pytest.raises(UsageError, match=r"model\.name mlp takes one tensor.*: nested inputs need your own network"):
        check_model(MlpConfig(), num_classes=2, input_shape={"left": (2,)})  # type: ignore[arg-type]
    for config in (TrainingConfig(), TrainingConfig(loss="mse")):
        with pytest.raises(UsageError, match="needs targets that are one tensor, and the data has nested ones or none"):
            check_task(config, classes=False, one_target=False)
    with pytest.raises(DatasetError, match=r"data\.augmentation: .* gives no uint8 tensors"):
        record(0, 1, TrialSpec.model_validate(_with_augmentation(spec_of("dict"))))


def _with_augmentation(spec: TrialSpec) -> dict[str, Any]:
    raw = spec.model_dump(exclude_unset=True)
    return {**raw, "data": {**raw["data"], "augmentation": "basic"}}


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        ("unlike", r"test has inputs \(4,\), targets int64 \(\); train has inputs \{'left': \(2,\), 'right': \(2,\)\}"),
        ("text", r"train: inputs must be a tensor, .* \(got list: "),
        ("of_two_lengths", r"inputs: all tensors of a batch must have the same first dimension.*\(got 3, 4\)"),
    ],
)
def test_data_that_does_not_fit_is_refused_in_one_line(function: str, problem: str) -> None:
    with pytest.raises(DatasetError, match=problem) as caught:
        check_dataset(OwnDataConfig(name=f"helpers.nested_parts:{function}"))
    assert "\n" not in str(caught.value)


def test_outputs_without_logits_are_refused_in_one_line() -> None:
    from types import SimpleNamespace

    from samtune.train.loss import training_loss

    with pytest.raises(UsageError, match=r"cross_entropy: the model must return a tensor, .* \(it returns a Simple"):
        training_loss(TrainingConfig())(SimpleNamespace(scores=1), torch.zeros(2, dtype=torch.int64))


def test_relabeling_and_the_bootstrap_take_nested_inputs(tmp_path: Path) -> None:
    """The network is short of perfect, so that some labels change."""
    path, labels = str(tmp_path / "best.safetensors"), {}
    trained(0, 1, spec_of("dict", "dict", epochs=1)).save_weights(path)
    for form in ("flat", "dict"):
        raw = spec_of(form, "dict").model_dump(exclude_unset=True)
        clean = TrialRun(TrialSpec.model_validate(raw), rank=0, num_workers=1, device=CPU)
        raw["data"]["relabel"] = path
        relabelled = TrialRun(TrialSpec.model_validate(raw), rank=0, num_workers=1, device=CPU)
        labels[form] = relabelled.dataset.train.labels, predictions(clean)
        assert 0 < int((relabelled.dataset.train.labels != clean.dataset.train.labels).sum()) < 40
    assert all(torch.equal(*pair) for pair in zip(labels["flat"], labels["dict"], strict=True))
