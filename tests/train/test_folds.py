"""k-fold cross-validation as one trial."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from helpers.folded import FOLDS, LR, NUM_EXAMPLES, load, make_spec, train
from helpers.midway import begin, leave_and_go_on, uninterrupted
from helpers.midway import make_spec as make_digits
from helpers.ranks import run_ranks
from torch import Tensor, nn

from samtune.config.data import DigitsConfig
from samtune.data import dataset_info, load_dataset
from samtune.data.subset import fold_of_rows
from samtune.errors import DatasetError, SpaceError
from samtune.experiments.candidates import final
from samtune.experiments.train import as_one_training
from samtune.models import build_model
from samtune.train.repeats import build_run
from samtune.train.trial import TrialRun


def test_folds_are_stratified_and_differ_by_at_most_one_example() -> None:
    labels = torch.tensor([0] * 41 + [1] * 29 + [2] * 13)[torch.randperm(83, generator=torch.manual_seed(0))]
    folds = fold_of_rows(labels, 5, 0)
    for rows in (torch.arange(83), *((labels == c).nonzero()[:, 0] for c in range(3))):
        sizes = torch.bincount(folds[rows], minlength=5)
        assert sizes.max() - sizes.min() <= 1
    assert torch.equal(folds, fold_of_rows(labels, 5, 0))
    assert not torch.equal(folds, fold_of_rows(labels, 5, 1))


def test_every_example_of_a_built_in_data_set_validates_once() -> None:
    config = DigitsConfig(num_train=202, folds=4)
    datasets = [load_dataset(config, fold) for fold in range(4)]
    everything = torch.cat([dataset.validation.indices for dataset in datasets])
    assert len(everything.unique()) == len(everything) == 202
    for dataset in datasets:
        both = torch.cat([dataset.train.indices, dataset.validation.indices])
        assert torch.equal(both.sort().values, everything.sort().values)
    assert [len(dataset.validation) for dataset in datasets] == [51, 51, 50, 50]
    info = dataset_info(config)  # of the first fold
    assert (info.num_train, info.num_validation) == (151, 51)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_metrics_are_those_of_a_loop_written_by_hand(num_workers: int) -> None:
    spec = make_spec(f"resources.num_workers={num_workers}")
    results = run_ranks(2, train, spec) if num_workers == 2 else [train(0, 1, spec)]
    history, folds = results[0]
    inputs, targets = load()[0]
    losses, hits = torch.empty(FOLDS, 3, dtype=torch.float64), torch.empty(FOLDS, 3, dtype=torch.float64)
    for fold, (rows, validation) in enumerate(folds):
        assert len(rows) == 20
        model = build_model(spec.model, num_classes=3, input_shape=(4,), seed=spec.seed)
        for epoch in range(3):
            gradient = torch.autograd.grad(_loss(model, inputs[rows], targets[rows]), list(model.parameters()))
            with torch.no_grad():
                for parameter, slope in zip(model.parameters(), gradient, strict=True):
                    parameter -= LR * slope
                losses[fold, epoch] = _loss(model, inputs[validation], targets[validation])
                hits[fold, epoch] = (model(inputs[validation]).argmax(1) == targets[validation]).double().mean()
    for epoch, record in enumerate(history):
        assert record["epoch"] == epoch + 1
        for name, values in (("val_loss", losses[:, epoch]), ("val_accuracy", hits[:, epoch])):
            assert record[name] == pytest.approx(float(values.mean()), rel=1e-10)
            error = float(((values - values.mean()).square().sum() / (FOLDS - 1)).sqrt()) / math.sqrt(FOLDS)
            assert record[f"{name}_se"] == pytest.approx(error, rel=1e-8)
        assert record["num_passes"] == FOLDS * (epoch + 1)  # SGD: one per fold and epoch
    assert losses.unique().numel() == 3 * FOLDS
    for other, other_folds in results[1:]:
        for one, two in zip(folds, other_folds, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
        assert [record["val_loss"] for record in other] == [record["val_loss"] for record in history]


def _loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(inputs), targets)


def test_numbers_are_split_at_random() -> None:
    _, folds = train(
        0, 1, make_spec("data.options={numbers: true}", "training.loss=mse", "objective={metric: val_loss, mode: min}")
    )
    validated = torch.cat([validation for _, validation in folds])
    assert torch.equal(validated.sort().values, torch.arange(NUM_EXAMPLES))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_trial_left_in_its_second_fold_goes_on_bit_for_bit(tmp_path: Path, num_workers: int) -> None:
    spec = make_digits(
        "data.num_train=200", "data.folds=3", "training.epochs=2", f"resources.num_workers={num_workers}"
    )
    assert begin(spec).runs[0].steps_per_epoch == 4
    # Of the first fold's four steps three ask whether to leave, so the fifth question is in the second fold.
    if num_workers == 2:
        left = run_ranks(2, leave_and_go_on, spec, str(tmp_path), after=5)
        whole = run_ranks(2, uninterrupted, spec)
    else:
        left, whole = [leave_and_go_on(0, 1, spec, str(tmp_path), after=5)], [uninterrupted(0, 1, spec)]
    for (history, tensors), (expected, other) in zip(left, whole, strict=True):
        assert history == expected
        assert len(tensors) == len(other) > 0
        assert all(torch.equal(a, b) for a, b in zip(tensors, other, strict=True))


def test_passes_count_all_folds_and_a_confirmation_has_none() -> None:
    spec = make_spec()
    assert spec.num_passes == 9
    confirmed = final(spec)
    assert confirmed.num_passes == 3
    run = build_run(confirmed, rank=0, num_workers=1, device=torch.device("cpu"))
    assert isinstance(run, TrialRun)
    assert (len(run.dataset.train), run.evaluated) == (NUM_EXAMPLES, "test")


def test_a_single_training_holds_a_share_out_instead() -> None:
    run = build_run(as_one_training(make_spec()), rank=0, num_workers=1, device=torch.device("cpu"))
    assert isinstance(run, TrialRun)
    assert (len(run.dataset.train), len(run.dataset.validation), run.spec.final) == (27, 3, True)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["data.folds=1"], "data.folds: must be greater than or equal to 2 (got 1)"),
        (["data.validation_fraction=0"], "data.folds: needs validation_fraction > 0: 0 trains on all examples (got 3)"),
        (["repeats=2"], "data.folds: trains 3 networks; repeats must be 1 (it is 2)"),
        (["scheduler=pbt", "sampler=random"], "data.folds: cannot be used with pbt, whose trials copy each other"),
    ],
)
def test_settings_that_do_not_fit_folds_are_one_line(overrides: list[str], line: str) -> None:
    with pytest.raises(SpaceError) as caught:
        make_spec(*overrides)
    assert line in str(caught.value)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("data.folds=31", "data.folds must not exceed the 30 training examples of helpers.folded:load (31)"),
        ("data.options={validation: true}", "data.folds: helpers.folded:load has a validation set of its own"),
    ],
)
def test_data_that_do_not_fit_folds_are_one_line(override: str, line: str) -> None:
    config = make_spec(override).data
    for look in (dataset_info, load_dataset):
        with pytest.raises(DatasetError) as caught:
            look(config)
        assert str(caught.value).startswith(line)
