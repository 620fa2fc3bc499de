"""Several runs of one configuration that differ by their seeds or folds, side by side, one epoch after the other.

A trial of `repeats: 3` is one such set: the scheduler and the sampler see the mean of the three after every epoch. A
trial of `data.folds: 5` is another. Were its folds trained one after the other, a scheduler would compare trials by
different folds at different epochs, and could stop none before a fold is done; so every report is of all folds at the
same epoch.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any

import torch

from samtune.config.trial import TrialSpec
from samtune.train.bootstrap import BootstrappedRun
from samtune.train.checkpoint import Resumable
from samtune.train.trial import TrialRun

_SUMS = ("num_passes", "train_seconds", "epoch_seconds")
"""Metrics that say what was spent, on all runs together."""


class RepeatedRun(Resumable):
    """`spec.repeats` runs with the seeds `spec.seed`, `spec.seed + 1`, …; each is the run of its seed.

    Or a run of each of `spec.data.folds`, all with the seed `spec.seed`: they differ by their examples alone.

    Args:
        spec, rank, num_workers, device: as of `TrialRun`. All runs are in memory together.
    """

    def __init__(self, spec: TrialSpec, *, rank: int, num_workers: int, device: torch.device) -> None:
        self.spec, self.rank, self.num_workers, self.device = spec, rank, num_workers, device
        self.runs = [
            _one_run(
                spec.model_copy(update={"seed": spec.seed if spec.data.folds else spec.seed + index, "repeats": 1}),
                rank=rank,
                num_workers=num_workers,
                device=device,
                fold=index if spec.data.folds else 0,
            )
            for index in range(spec.num_models)
        ]
        self.dataset = self.runs[0].dataset
        self.history: list[dict[str, float]] = []

    @property
    def is_sharded(self) -> bool:
        return self.runs[0].is_sharded

    @property
    def steps_done(self) -> int:
        """Of all runs together."""
        return sum(run.steps_done + run.steps_per_epoch * (len(run.history) - len(self.history)) for run in self.runs)

    def train_epoch(self, epoch: int, after_step: Callable[[], None] | None = None) -> dict[str, float]:
        """Trains one epoch of every run, one run after the other.

        Returns:
            The mean of each metric over the runs, and of those of an evaluation the standard deviation too
            (`val_accuracy_std`), over folds the standard error of the mean (`val_accuracy_se`); of passes and seconds
            the sum.

        Raises:
            DivergedError: one of the runs has.
        """
        for run in self.runs:
            if len(run.history) < epoch:
                run.train_epoch(epoch, after_step)
        records = [run.history[-1] for run in self.runs]
        merged: dict[str, float] = {}
        for name in records[0]:
            values = [record[name] for record in records if name in record]
            merged[name] = sum(values) if name in _SUMS else statistics.fmean(values)
            if name.startswith(("val_", "test_")):
                deviation = statistics.stdev(values)
                if self.spec.data.folds:
                    merged[f"{name}_se"] = deviation / math.sqrt(len(values))
                else:
                    merged[f"{name}_std"] = deviation
        self.history.append(merged)
        return merged

    def save_weights(self, uri: str) -> None:
        """Those of the first run."""
        self.runs[0].save_weights(uri)

    def state_dict(self) -> dict[str, Any]:
        runs = [run.state_dict() for run in self.runs]
        return {"history": self.history, "steps_done": self.steps_done, "runs": runs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for run, own in zip(self.runs, state["runs"], strict=True):
            run.load_state_dict(own)
        self.history = state["history"]

    def rank_state_dict(self) -> dict[str, Any]:
        return {"runs": [run.rank_state_dict() if run.steps_done else None for run in self.runs]}

    def load_rank_state_dict(self, state: dict[str, Any]) -> None:
        for run, own in zip(self.runs, state["runs"], strict=True):
            if own is not None:
                run.load_rank_state_dict(own)

    def share_of(self, states: list[dict[str, Any]]) -> dict[str, Any]:
        each = zip(*(state["runs"] for state in states), strict=True)
        return {
            "runs": [
                None if parts[0] is None else run.share_of(list(parts))
                for run, parts in zip(self.runs, each, strict=True)
            ]
        }


def build_run(
    spec: TrialSpec, *, rank: int, num_workers: int, device: torch.device
) -> TrialRun | BootstrappedRun | RepeatedRun:
    """What trains the trial: one run, or several with different seeds or folds."""
    kind = RepeatedRun if spec.num_models > 1 else _one_run
    return kind(spec, rank=rank, num_workers=num_workers, device=device)


def _one_run(
    spec: TrialSpec, *, rank: int, num_workers: int, device: torch.device, fold: int = 0
) -> TrialRun | BootstrappedRun:
    """One training, or one after another on the labels that the one before predicts."""
    kind = BootstrappedRun if spec.training.bootstrap else TrialRun
    return kind(spec, rank=rank, num_workers=num_workers, device=device, fold=fold)
