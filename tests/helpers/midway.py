"""Trials that are left in the middle of an epoch, on one rank or several; a module that worker processes can import."""

from __future__ import annotations

from typing import Any

import torch

from samtune.config.space import SearchSpace
from samtune.config.trial import TrialSpec
from samtune.train.bootstrap import BootstrappedRun
from samtune.train.checkpoint import CheckpointFolder
from samtune.train.checkpoint_consensus import CheckpointConsensus, Request
from samtune.train.repeats import RepeatedRun, build_run
from samtune.train.trial import TrialRun

Run = TrialRun | BootstrappedRun | RepeatedRun
SMALL = ["data.num_train=300", "training.epochs=3", "training.batch_size=32", "search={}", "initial=[]"]
SECONDS = ("epoch_seconds", "train_seconds")


class LeftError(Exception):
    """The epoch was left in its middle."""


def make_spec(*overrides: str) -> TrialSpec:
    return SearchSpace.from_yaml("digits.yaml", [*SMALL, *overrides]).trial({})


def begin(spec: TrialSpec, rank: int = 0, num_workers: int = 1) -> Run:
    return build_run(spec, rank=rank, num_workers=num_workers, device=torch.device("cpu"))


def train_to_end(run: Run, spec: TrialSpec) -> tuple[list[dict[str, float]], list[torch.Tensor]]:
    """Its metrics, without times, and its tensors."""
    for epoch in range(len(run.history) + 1, spec.num_epochs + 1):
        run.train_epoch(epoch)
    tensors: list[torch.Tensor] = []

    def collect(part: Any) -> None:
        if isinstance(part, torch.Tensor):
            tensors.append(part.clone())
        for item in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
            collect(item)

    state = run.state_dict()
    collect({key: value for key, value in state.items() if key != "history"})
    history = [{key: value for key, value in record.items() if key not in SECONDS} for record in run.history]
    return history, tensors


def leave_and_go_on(
    rank: int, num_workers: int, spec: TrialSpec, folder: str, *, after: int
) -> tuple[list[dict[str, float]], list[torch.Tensor]]:
    """Leaves the second epoch after so many steps, saved, and goes on with a new run."""
    checkpoints = CheckpointFolder(folder)
    first = begin(spec, rank, num_workers)
    first.train_epoch(1)
    steps = 0

    def wish() -> Request:
        return Request.LEAVE if steps >= after else Request.NOTHING

    place = {"rank": rank, "num_workers": num_workers, "device": torch.device("cpu")}
    agreed = CheckpointConsensus(wish, **place, interval=0.0)  # asks after every step

    def after_step() -> None:
        nonlocal steps
        steps += rank == 0  # the others learn it from the first
        if agreed() is Request.LEAVE:
            first.save(checkpoints)
            raise LeftError

    try:
        first.train_epoch(2, after_step)
    except LeftError:
        pass
    else:
        raise AssertionError("the epoch was not left")
    second = begin(spec, rank, num_workers)
    second.restore(checkpoints)
    assert len(second.history) == 1
    assert second.steps_done == first.steps_done > 0
    return train_to_end(second, spec)


def uninterrupted(rank: int, num_workers: int, spec: TrialSpec) -> tuple[list[dict[str, float]], list[torch.Tensor]]:
    return train_to_end(begin(spec, rank, num_workers), spec)
