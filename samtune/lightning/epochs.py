"""The epochs of a trial in a Trainer's loop, and what is saved between two of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from samtune.errors import UsageError
from samtune.train.trial_context import TrialContext, seed_all
from samtune.train.trial_loader import seed_of

CHECKPOINT = "the trial's"
"""What stands for a checkpoint's path: the trial keeps it."""
_MEASURED_HERE = ("epoch", "lr", "epoch_seconds")


class TrainerEpochs:
    """The epochs of the trial, from within the Trainer's own loop: one ends where the Trainer begins the next.

    Args:
        optimizer: the trial's; None: the module's own.
        steps: of an epoch, that the trial's optimizer goes by.

    Attributes:
        checkpoint: Lightning's, of the last boundary between two epochs; empty at the beginning.
        losses: of the epoch's steps, at w.
    """

    def __init__(
        self, trial: TrialContext, module: Any, optimizer: torch.optim.Optimizer | None, steps: int | None
    ) -> None:
        self.trial, self.module, self.optimizer, self.steps = trial, module, optimizer, steps
        self.checkpoint: dict[str, Any] = {}
        self.losses: list[Tensor] = []
        self.epoch = 0
        self.is_over = False
        self._epochs: Iterator[int] | None = None

    # What `trial.epochs` saves beside the network and the trial's optimizer.

    def state_dict(self) -> dict[str, Any]:
        return self.checkpoint

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.checkpoint = state

    def begin(self) -> bool:
        """Restores the trial; whether an epoch is missing."""
        self._epochs = self.trial.epochs(model=self.module, lightning=self)
        return self._next()

    def check_steps(self, taken: float) -> None:
        """Makes sure that the schedule goes by the steps that the Trainer takes. Raises UsageError where not."""
        if self.steps is not None and taken != self.steps:
            raise UsageError(
                f"samtune.lightning.fit: an epoch of the Trainer has {taken} steps, not {self.steps}: "
                f"pass steps_per_epoch={taken}"
            )

    def seed(self) -> None:
        """Once more before the first step of an epoch: what the Trainer draws first differs after a resume."""
        seed_all(seed_of(self.trial.seed, self.epoch, self.trial.rank))

    def loaded(self) -> dict[str, Any]:
        """What Lightning is to restore: what it has saved, with what the trial has restored already."""
        optimizers = {"optimizer_states": [self.optimizer.state_dict()]} if self.optimizer is not None else {}
        return {**self.checkpoint, "state_dict": self.module.state_dict(), **optimizers}

    def keep(self, checkpoint: dict[str, Any]) -> None:
        """Takes what Lightning saves, without what the trial saves itself, as of the end of an epoch."""
        saved = {"state_dict"} if self.optimizer is None else {"state_dict", "optimizer_states"}
        kept = {k: v for k, v in checkpoint.items() if k not in saved and "hyper_parameters" not in k}
        kept["loops"] = {"fit_loop": kept["loops"]["fit_loop"]}
        for progress in kept["loops"]["fit_loop"]["epoch_progress"].values():
            progress["ready"] = progress["processed"]  # the next epoch, which the Trainer begins, has not begun here
        self.checkpoint = _plain(kept)

    def end(self, trainer: Any) -> bool:
        """Reports the epoch and goes on to the next one; False where there is none."""
        metrics = {
            name: value.item() if isinstance(value, Tensor) else value
            for name, value in trainer.callback_metrics.items()
            if name not in _MEASURED_HERE and (not isinstance(value, Tensor) or value.numel() == 1)
        }
        if self.losses:
            metrics["train_loss"] = torch.stack(self.losses).double().mean().item()
        if self.optimizer is None and trainer.optimizers:
            passes = trainer.optimizers[0].param_groups[0].get("sam_passes")
            metrics |= {"num_passes": passes / trainer.num_training_batches} if passes else {}
        self.losses.clear()
        self.trial.report(average=True, **metrics)
        trainer.save_checkpoint(CHECKPOINT, weights_only=False)  # into `keep`
        return self._next()

    def _next(self) -> bool:
        assert self._epochs is not None
        modes = {part: part.training for part in self.module.modules()}
        self.epoch = next(self._epochs, 0)
        for part, mode in modes.items():  # a part that the user has frozen stays so
            part.training = mode
        self.is_over = self.epoch == 0
        return not self.is_over


def _plain(value: Any) -> Any:
    """Nested state with dicts and lists in place of subclasses of these."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value)) if type(value) in (list, tuple) else list(map(_plain, value))
    return value
