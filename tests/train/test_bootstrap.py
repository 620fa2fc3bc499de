"""`training.bootstrap`: train, relabel, train again, all in one trial."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.midway import SMALL, begin, leave_and_go_on, make_spec, train_to_end, uninterrupted
from helpers.ranks import run_ranks

from samtune.config.space import SearchSpace
from samtune.config.trial import TrialSpec
from samtune.data import load_dataset
from samtune.errors import UsageError
from samtune.experiments.candidates import Chosen, add_baseline, final
from samtune.models.saved import read_saved
from samtune.train.bootstrap import BootstrappedRun, check_classes
from samtune.train.checkpoint import CheckpointFolder
from samtune.train.repeats import RepeatedRun
from samtune.train.trial import TrialRun

NOISY = ("data.num_train=600", "data.label_noise=0.3", "resources.num_workers=1")
BOOTSTRAP = (*NOISY, "training.bootstrap=1")
OWN = ("epoch", "num_passes")  # of a training, not of the trial


def labels_of(rank: int, num_workers: int, spec: TrialSpec) -> torch.Tensor:
    run = begin(spec, rank, num_workers)
    train_to_end(run, spec)
    return run.dataset.train.labels


def test_it_is_the_two_trainings_by_hand(tmp_path: Path) -> None:
    """As `samtune train`, then `samtune train --set data.relabel=…`: the same metrics and weights, bit for bit."""
    spec = make_spec(*BOOTSTRAP)
    run = begin(spec)
    assert isinstance(run, BootstrappedRun)
    history, _ = train_to_end(run, spec)
    run.save_weights(str(tmp_path / "both.safetensors"))

    first = begin(make_spec(*NOISY))
    expected, _ = train_to_end(first, make_spec(*NOISY))
    first.save_weights(str(tmp_path / "first.safetensors"))
    again = make_spec(*NOISY, f"data.relabel={tmp_path / 'first.safetensors'}")
    second = begin(again)
    expected += train_to_end(second, again)[0]

    assert [{k: v for k, v in r.items() if k not in OWN} for r in history] == [
        {k: v for k, v in r.items() if k not in OWN} for r in expected
    ]
    assert [r["epoch"] for r in history] == [1, 2, 3, 4, 5, 6]
    cost = expected[2]["num_passes"]
    assert [r["num_passes"] for r in history[2:4]] == [cost, cost + expected[3]["num_passes"]]
    assert history[-1]["num_passes"] == spec.num_passes
    assert isinstance(second, TrialRun)
    assert torch.equal(run.dataset.train.labels, second.dataset.train.labels)
    assert not torch.equal(run.dataset.train.labels, first.dataset.train.labels)
    tensors, _, saved = read_saved(tmp_path / "both.safetensors")
    assert all(torch.equal(tensors[name], value) for name, value in second.model.state_dict().items())
    assert saved == spec


def test_it_resumes_between_two_trainings(tmp_path: Path) -> None:
    spec, checkpoints = make_spec(*BOOTSTRAP), CheckpointFolder(str(tmp_path))
    run = begin(spec)
    for epoch in (1, 2, 3):
        run.train_epoch(epoch)
    run.save(checkpoints)
    resumed = begin(spec)
    resumed.restore(checkpoints)
    assert len(resumed.history) == 3
    assert train_to_end(resumed, spec)[0] == train_to_end(run, spec)[0]


def test_it_resumes_in_the_middle_of_the_second_training(tmp_path: Path) -> None:
    """Of one epoch each: the second epoch of the trial is left after three steps."""
    network = ("model={name: wide_resnet, depth: 10, width: 1, dropout: 0.3}", "training.ema=0.9")
    spec = make_spec(*NOISY, *network, "data.num_train=300", "training.epochs=1", "training.bootstrap=1")
    left = leave_and_go_on(0, 1, spec, str(tmp_path), after=3)
    whole = uninterrupted(0, 1, spec)
    assert left[0] == whole[0]
    assert all(torch.equal(a, b) for a, b in zip(left[1], whole[1], strict=True))


def test_all_ranks_train_on_the_same_labels() -> None:
    spec = make_spec("data.num_train=300", "data.label_noise=0.3", "training.epochs=1", "training.bootstrap=1")
    one, other = run_ranks(2, labels_of, spec)
    assert torch.equal(one, other)
    assert not torch.equal(one, load_dataset(spec.data).train.labels)


def test_the_test_set_is_looked_at_once_after_the_last_training() -> None:
    spec = final(make_spec(*BOOTSTRAP, "data.num_train=300"))
    history, _ = train_to_end(begin(spec), spec)
    assert ["test_accuracy" in record for record in history] == [False] * 5 + [True]


def test_repeats_are_each_bootstrapped() -> None:
    spec = make_spec(*NOISY, "data.num_train=300", "training.epochs=1", "training.bootstrap=1", "repeats=2")
    run = begin(spec)
    assert isinstance(run, RepeatedRun)
    history, _ = train_to_end(run, spec)
    assert len(history) == 2
    assert history[-1]["num_passes"] == spec.num_passes
    assert not torch.equal(run.runs[0].dataset.train.labels, run.runs[1].dataset.train.labels)


def test_what_it_costs() -> None:
    """Of epochs each training has as many; of passes, which are the trial's, each has its share."""
    once, twice = make_spec("training.epochs=6"), make_spec("training.epochs=6", "training.bootstrap=1")
    assert (twice.num_epochs, twice.num_passes) == (12, 2 * once.num_passes)
    assert twice.params()["training.epochs"] == 6
    equal = make_spec("method={name: sam}", "training.passes=12", "training.bootstrap=2")
    assert (equal.epochs_per_training, equal.num_epochs, equal.num_passes) == (2, 6, 12)
    with pytest.raises(UsageError, match=r"an epoch of sam, which costs 2 passes, in each of 3 trainings \(got 5\)"):
        make_spec("method={name: sam}", "training.passes=5", "training.bootstrap=2")
    with pytest.raises(UsageError, match=r"warmup_epochs must not exceed epochs \(warmup_epochs is 7.0, epochs 6\)"):
        make_spec("training.epochs=6", "training.bootstrap=1", "training.warmup_epochs=7")


def test_a_baseline_of_as_many_passes_is_bootstrapped_too() -> None:
    """SAM: 2 trainings of 3 epochs are 12 passes; SGD makes them in 2 trainings of 6 epochs."""
    spec = make_spec("method={name: sam}", "training.epochs=3", "training.bootstrap=1")
    space = SearchSpace.from_yaml("digits.yaml", [*SMALL, "method={name: sam}", "training.bootstrap=1"])
    chosen: Chosen = {"sam": (spec, None)}
    add_baseline(chosen, None, space)
    assert {label: (each.epochs_per_training, each.num_passes) for label, (each, _) in chosen.items()} == {
        "sam": (3, 12),
        "sgd (6 epochs)": (3, 6),
        "sgd (12 epochs)": (6, 12),
    }


def test_where_it_makes_no_sense() -> None:
    with pytest.raises(UsageError, match=r"bootstrap needs targets that are classes \(loss is mse\)"):
        make_spec("training.bootstrap=1", "training.loss=mse")
    population = ["scheduler={name: pbt}", "sampler={name: random}", "search={training.lr: {log_uniform: [0.01, 0.1]}}"]
    with pytest.raises(UsageError, match=r"training\.bootstrap.*must be 0 with pbt: a trial that copies another"):
        SearchSpace.from_yaml("digits.yaml", ["training.bootstrap=1", *population])
    numbers = SimpleNamespace(traits=SimpleNamespace(classes=False), config=SimpleNamespace(name="mine.py:sizes"))
    with pytest.raises(UsageError, match=r"training\.bootstrap: needs targets .* those of mine\.py:sizes are not"):
        check_classes(numbers)  # type: ignore[arg-type]
