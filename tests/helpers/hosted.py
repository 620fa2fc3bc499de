"""Trials of training functions in this process or on gloo ranks, handed out without Ray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from samtune.config.space import SearchSpace
from samtune.config.trial import TrialSpec
from samtune.train.checkpoint import CheckpointFolder, Resumable
from samtune.train.loops import train_trial
from samtune.train.session import Place


class LocalHost:
    """Saves after every epoch, and ends the trial after `until` of them, as a scheduler does or a kill."""

    def __init__(self, folder: str, until: int | None = None, metrics: Sequence[str] = ("val_accuracy",)) -> None:
        self.checkpoints = CheckpointFolder(f"{folder}/checkpoints")
        self.study_folder, self.weights = folder, f"{folder}/weights.safetensors"
        self.metrics, self.until = tuple(metrics), until
        self.history: list[dict[str, float]] = []
        self.tensors: list[torch.Tensor] = []

    def epoch_begins(self) -> None: ...

    def after_step(self, run: Resumable) -> None: ...

    def epoch_ends(self, run: Resumable, epoch: int) -> bool:
        if run.rank == 0:
            run.save(self.checkpoints)
        if run.num_workers > 1:
            torch.distributed.barrier()
        self.history = [{k: v for k, v in record.items() if "seconds" not in k} for record in run.history]
        self.tensors = tensors_in(run.state_dict())
        return epoch != self.until


def tensors_in(part: Any) -> list[torch.Tensor]:
    """A copy of every tensor in nested state."""
    if isinstance(part, torch.Tensor):
        return [part.clone()]
    inner = part.values() if isinstance(part, dict) else part if isinstance(part, list | tuple) else ()
    return [tensor for item in inner for tensor in tensors_in(item)]


def make_spec(function: str, **sections: Any) -> TrialSpec:
    """A trial of a function of `helpers.train_functions`."""
    space = {
        "name": "own",
        "train": f"helpers.train_functions:{function}",
        "method": {"name": "sam", "rho": 0.1},
        "training": {"epochs": 3, "batch_size": 20, "lr": 0.1},
        "config": {"width": 8},
    }
    return SearchSpace.from_dict({**space, **sections}).trial({})


def train(
    rank: int, num_workers: int, spec: TrialSpec, folder: str, until: int | None = None
) -> tuple[list[dict[str, float]], list[torch.Tensor]]:
    """Trains from the newest checkpoint on; the metrics without times, and the tensors of the state."""
    host = LocalHost(folder, until)
    train_trial(spec, Place(rank, num_workers, torch.device("cpu")), host)
    return host.history, host.tensors


def interrupt_and_resume(
    rank: int, num_workers: int, spec: TrialSpec, folder: str, after: int
) -> tuple[list[dict[str, float]], list[torch.Tensor]]:
    """The same, ended after so many epochs and begun again."""
    train(rank, num_workers, spec, folder, after)
    torch.randn(7)  # a process that has trained something else meanwhile
    return train(rank, num_workers, spec, folder)
