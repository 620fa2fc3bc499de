"""What a Trainer is given: classes whose bases are Lightning's."""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from samtune.lightning.epochs import CHECKPOINT, TrainerEpochs
from samtune.train.trial_context import TrialContext


class Parts:
    """What one of Lightning's packages is given: classes that take theirs as bases."""

    def __init__(self, callback: Any, strategy: Any, environment: Any) -> None:
        self.callback, self.strategy, self.environment = callback, strategy, environment


@cache
def parts_for(library: str) -> Parts:
    """The classes for one of the packages that Lightning goes by."""
    strategies, lightning = import_module(f"{library}.strategies"), import_module(library)
    one_device: Any = strategies.SingleDeviceStrategy
    data_parallel: Any = strategies.DDPStrategy
    environment: Any = import_module(f"{library}.plugins.environments").ClusterEnvironment
    callback: Any = lightning.Callback

    class EndOfEpoch(callback):  # type: ignore[misc]
        """Ends an epoch of the trial where the Trainer begins the next one, and after the last."""

        def __init__(self, epochs: TrainerEpochs) -> None:
            self._epochs, self._has_begun = epochs, False

        def on_train_start(self, trainer: Any, module: Any) -> None:
            self._epochs.check_steps(trainer.num_training_batches)

        def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
            if self._has_begun and not self._epochs.end(trainer):
                raise StopIteration  # the Trainer's loop ends here
            self._has_begun = True

        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 0:
                self._epochs.seed()

        def on_train_end(self, trainer: Any, module: Any) -> None:
            if not self._epochs.is_over:
                self._epochs.end(trainer)

    class Saving:
        """A strategy that saves into the trial's checkpoint and loads from it, and notes the loss at w."""

        epochs: TrainerEpochs

        def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
            if filepath == CHECKPOINT:
                self.epochs.keep(checkpoint)
            else:
                super().save_checkpoint(checkpoint, filepath, storage_options)  # type: ignore[misc]

        def load_checkpoint(self, *_: Any, **__: Any) -> dict[str, Any]:
            return self.epochs.loaded()

        def optimizer_step(self, *arguments: Any, **options: Any) -> Any:
            loss = super().optimizer_step(*arguments, **options)  # type: ignore[misc]
            if isinstance(loss, Tensor):
                self.epochs.losses.append(loss.detach())
            return loss

    class OneWorker(Saving, one_device):  # type: ignore[misc]
        pass

    class SeveralWorkers(Saving, data_parallel):  # type: ignore[misc]
        """Within the process group that the workers have."""

        @property
        def root_device(self) -> torch.device:
            return self.epochs.trial.device

        @property
        def distributed_sampler_kwargs(self) -> dict[str, int]:
            return {"num_replicas": self.epochs.trial.num_workers, "rank": self.epochs.trial.rank}

    class Group(environment):  # type: ignore[misc]
        """The ranks of the worker group, which others have started."""

        creates_processes_externally = True
        main_address, main_port = "", 0

        def __init__(self, trial: TrialContext) -> None:
            self._trial = trial

        @staticmethod
        def detect() -> bool:
            return False

        def world_size(self) -> int:
            return self._trial.num_workers

        def global_rank(self) -> int:
            return self._trial.rank

        def local_rank(self) -> int:
            return int(os.environ.get("LOCAL_RANK", self._trial.rank))

        def node_rank(self) -> int:
            return int(os.environ.get("NODE_RANK", 0))

        def set_world_size(self, size: int) -> None: ...

        def set_global_rank(self, rank: int) -> None: ...

    def strategy(epochs: TrainerEpochs) -> Any:
        trial = epochs.trial
        made: Any = OneWorker(device=trial.device) if trial.num_workers == 1 else SeveralWorkers()
        made.epochs = epochs
        return made

    return Parts(EndOfEpoch, strategy, Group)
