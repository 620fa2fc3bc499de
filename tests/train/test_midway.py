"""A trial that is saved in the middle of an epoch goes on bit for bit."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.midway import begin, leave_and_go_on, make_spec, uninterrupted
from helpers.ranks import run_ranks

from samtune.train.checkpoint import CheckpointFolder
from samtune.train.checkpoint_consensus import MAX_STEPS, CheckpointConsensus, Request

METHODS = {
    "batchnorm_ema": ("model={name: wide_resnet, depth: 10, width: 1, dropout: 0.3}", "training.ema=0.9"),
    "fisher_mask": ("method={name: ssam_f, rho: 0.1, sparsity: 0.5}",),
    "dynamic_mask": ("method={name: ssam_d, rho: 0.1, sparsity: 0.5}",),
    "looksam_accumulate": ("method={name: looksam, k: 3}", "training.accumulate=2"),
    "momentum_sam": ("method={name: momentum_sam}",),
    "mixup": ("data.mixup=0.3", "method={name: frob_sam}"),
    "adamw": ("training.optimizer=adamw", "method={name: gsam, rho: 0.1}"),
}


def same(one: Any, other: Any) -> bool:
    """Histories and tensors, NaN being equal to NaN."""
    (history, tensors), (other_history, other_tensors) = one, other
    metrics = [list(record.items()) for record in history], [list(record.items()) for record in other_history]
    return all(
        (a == b or (math.isnan(a[1]) and math.isnan(b[1])))
        for record, other_record in zip(*metrics, strict=True)
        for a, b in zip(record, other_record, strict=True)
    ) and all(torch.equal(a, b) for a, b in zip(tensors, other_tensors, strict=True))


@pytest.mark.parametrize("overrides", METHODS.values(), ids=METHODS)
def test_one_rank(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    spec = make_spec(*overrides, "resources.num_workers=1")
    assert same(leave_and_go_on(0, 1, spec, str(tmp_path), after=3), uninterrupted(0, 1, spec))


def test_repeats_are_left_in_the_second_of_two(tmp_path: Path) -> None:
    spec = make_spec("repeats=2", "resources.num_workers=1")
    assert begin(spec).runs[0].steps_per_epoch == 8
    left = leave_and_go_on(0, 1, spec, str(tmp_path), after=10)
    assert same(left, uninterrupted(0, 1, spec))


def test_two_ranks_with_running_statistics_of_their_own(tmp_path: Path) -> None:
    spec = make_spec(*METHODS["batchnorm_ema"])
    left = run_ranks(2, leave_and_go_on, spec, str(tmp_path), after=3)
    whole = run_ranks(2, uninterrupted, spec)
    assert same(left[0], whole[0])
    assert same(left[1], whole[1])


def test_the_newest_checkpoint_counts_and_two_are_kept(tmp_path: Path) -> None:
    checkpoints = CheckpointFolder(str(tmp_path))
    for epoch, steps in [(1, 0), (1, 7), (1, 12), (2, 0)]:
        checkpoints.save(epoch, {"at": [epoch, steps]}, steps)
        assert checkpoints.load(torch.device("cpu")) == {"at": [epoch, steps]}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["epoch-000001-000000012.pt", "epoch-000002.pt"]
    assert checkpoints.load(torch.device("cpu"), epoch=1) is None  # of the epoch's end, not of its middle
    assert checkpoints.load(torch.device("cpu"), epoch=2) == {"at": [2, 0]}
    checkpoints.save(2, {"at": [2, 5]}, 5)
    assert checkpoints.load(torch.device("cpu"), whole_epochs=True) == {"at": [2, 0]}
    checkpoints.save(2, {"at": [2, 9]}, 9)
    assert checkpoints.load(torch.device("cpu"), whole_epochs=True) is None


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mknod, (str(self.file),)


def test_a_checkpoint_of_somebody_else_runs_no_code(tmp_path: Path) -> None:
    folder, made = tmp_path / "checkpoints", tmp_path / "made"
    checkpoints = CheckpointFolder(str(folder))
    checkpoints.save(1, {"at": 1})
    checkpoints.save(2, {"at": Payload(made)})
    with pytest.warns(UserWarning, match="epoch-000002.pt is damaged and passed over"):
        assert checkpoints.load(torch.device("cpu")) == {"at": 1}
    assert not made.exists()


def test_the_first_rank_is_asked_about_every_interval_however_fast_the_steps_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, asked = [0.0], []

    def wish() -> Request:
        asked.append(now[0])
        return Request.NOTHING

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    agree = CheckpointConsensus(wish, rank=0, num_workers=1, device=torch.device("cpu"), interval=2.0)
    for _ in range(200):
        now[0] += 0.1
        agree()
    assert asked[:3] == pytest.approx([0.1, 2.1, 4.1])
    for _ in range(200):
        now[0] += 0.5
        agree()
    assert asked[-1] - asked[-2] == pytest.approx(2.0)


def test_the_first_rank_is_asked_seldom() -> None:
    asked = 0

    def wish() -> Request:
        nonlocal asked
        asked += 1
        return Request.NOTHING

    agree = CheckpointConsensus(wish, rank=0, num_workers=1, device=torch.device("cpu"), interval=1e9)
    assert {agree() for _ in range(1 + 2 * MAX_STEPS)} == {Request.NOTHING}
    assert asked == 3
