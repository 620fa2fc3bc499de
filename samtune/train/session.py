"""The epochs of a trial, whoever trains them: samtune's own loop, or a training function of the user's.

Restoring, saving and reporting happen here and nowhere else, so that both loops are killed, stopped and resumed alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from samtune.config.trial import TrialSpec
from samtune.train.checkpoint import CheckpointFolder, Resumable

if TYPE_CHECKING:
    import torch


class Host(Protocol):
    """Who hands a trial out: decides when it is saved, hears of its epochs, and ends it."""

    @property
    def checkpoints(self) -> CheckpointFolder:
        """Of the trial."""

    @property
    def study_folder(self) -> str:
        """Path or URI of the study's folder."""

    @property
    def weights(self) -> str | None:
        """Path or URI of the file that gets the weights after the last epoch; None: they are not kept."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """What the study optimizes: a trial must measure it."""

    def epoch_begins(self) -> None:
        """On every rank, before an epoch."""

    def after_step(self, run: Resumable) -> None:
        """On every rank, after every step of an epoch but its last; may save the run."""

    def epoch_ends(self, run: Resumable, epoch: int) -> bool:
        """On every rank: saves where that is due and passes the records on. Returns whether the trial goes on."""


@dataclass(frozen=True)
class Place:
    """Where a rank trains; with more than one worker, torch's default process group is initialized."""

    rank: int
    num_workers: int
    device: torch.device


def epochs(run: Resumable, spec: TrialSpec, host: Host) -> Iterator[int]:
    """The epochs that a trial still lacks, counted from 1; the body trains each and appends it to `run.history`.

    Restores the run from its newest checkpoint first. Ends after the last epoch, or when the host ends the trial.

    Raises:
        CheckpointError: a checkpoint could not be written.
        OSError: the store does not take the weights.
    """
    run.restore(host.checkpoints)
    last = spec.num_epochs
    for epoch in range(len(run.history) + 1, last + 1):
        host.epoch_begins()
        yield epoch
        if epoch == last and host.weights is not None:
            run.keep_weights(host.weights)
        run.collect()
        if not host.epoch_ends(run, epoch):
            return
