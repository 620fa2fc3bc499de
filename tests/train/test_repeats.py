"""Several seeds of one configuration as one trial."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
import torch

from samtune.config.space import SearchSpace
from samtune.config.trial import TrialSpec
from samtune.train.checkpoint import CheckpointFolder
from samtune.train.repeats import RepeatedRun, build_run
from samtune.train.trial import TrialRun

PLACE = {"rank": 0, "num_workers": 1, "device": torch.device("cpu")}
TIMES = ("epoch_seconds", "train_seconds")


def make_spec(repeats: int, seed: int = 5) -> TrialSpec:
    """A network with dropout: its noise must not be that of the run beside it."""
    settings = [
        "model={name: wide_resnet, depth: 10, width: 1, dropout: 0.3}",
        "data.num_train=96",
        "training.epochs=3",
    ]
    more = ["search={}", "initial=[]", f"seed={seed}", f"repeats={repeats}", "resources.num_workers=1"]
    return SearchSpace.from_yaml("digits.yaml", [*settings, *more]).trial({})


def without_times(record: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in record.items() if name not in TIMES}


def test_each_run_is_the_one_of_its_seed_and_the_metrics_are_means() -> None:
    repeated = build_run(make_spec(repeats=3), **PLACE)
    assert isinstance(repeated, RepeatedRun)
    merged = [repeated.train_epoch(epoch) for epoch in (1, 2)]
    for index, run in enumerate(repeated.runs):
        alone = build_run(make_spec(repeats=1, seed=5 + index), **PLACE)
        assert isinstance(alone, TrialRun)
        for epoch in (1, 2):
            alone.train_epoch(epoch)
        assert [without_times(r) for r in run.history] == [without_times(r) for r in alone.history]
        assert all(torch.equal(a, b) for a, b in zip(run.model.parameters(), alone.model.parameters(), strict=True))
    for epoch, record in enumerate(merged):
        own = [run.history[epoch] for run in repeated.runs]
        assert record["epoch"] == epoch + 1
        for name in ("val_accuracy", "val_loss", "train_loss"):
            assert record[name] == pytest.approx(statistics.fmean(r[name] for r in own))
        assert record["val_loss_std"] == pytest.approx(statistics.stdev(r["val_loss"] for r in own))
        assert record["num_passes"] == sum(r["num_passes"] for r in own)
    assert len({run.history[0]["train_loss"] for run in repeated.runs}) == 3


def test_repeats_go_on_from_a_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    checkpoints = CheckpointFolder(str(tmp_path))
    whole = build_run(make_spec(repeats=2), **PLACE)
    whole.train_epoch(1)
    whole.save(checkpoints)
    resumed = build_run(make_spec(repeats=2), **PLACE)
    resumed.restore(checkpoints)
    assert len(resumed.history) == 1
    for run in (whole, resumed):
        for epoch in (2, 3):
            run.train_epoch(epoch)
    assert [without_times(r) for r in resumed.history] == [without_times(r) for r in whole.history]


def test_the_cost_of_a_trial_is_that_of_all_its_runs() -> None:
    assert make_spec(repeats=3).num_passes == 3 * make_spec(repeats=1).num_passes
