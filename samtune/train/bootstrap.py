"""Bootstrap for noisy labels as one trial: train, replace the labels by predictions, train again from scratch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from samtune.config.trial import TrialSpec
from samtune.data import Dataset
from samtune.data.batches import Normalise
from samtune.errors import UsageError
from samtune.sam import tree
from samtune.train.checkpoint import Resumable
from samtune.train.labels import predicted_labels
from samtune.train.trial import TrialRun


class BootstrappedRun(Resumable):
    """`training.bootstrap` trainings, each on the labels that the one before predicts, and the one that counts.

    Each begins with the weights, the order and the noise of the trial's seed: Foret et al. 2021, section 3.3, retrain
    "from scratch". Epochs and passes count over all of them; the learning rate's schedule is each training's own. The
    test set of a final trial is looked at after the last epoch of the last.

    Args:
        spec, rank, num_workers, device, fold: as of `TrialRun`.

    Raises:
        UsageError: the targets are not classes.
    """

    def __init__(self, spec: TrialSpec, *, rank: int, num_workers: int, device: torch.device, fold: int = 0) -> None:
        self.spec, self.rank, self.num_workers, self.device = spec, rank, num_workers, device
        self._fold = fold
        self.history: list[dict[str, float]] = []
        self._begin(0, None)
        check_classes(self.run.dataset)

    def _begin(self, index: int, labels: Tensor | None) -> None:
        """The training of this index, counted from 0, at its first step."""
        self._index, self._labels = index, labels
        once = {"bootstrap": 0, "epochs": self.spec.epochs_per_training, "passes": None}
        self.run = TrialRun(
            self.spec.model_copy(update={"training": self.spec.training.model_copy(update=once)}),
            rank=self.rank,
            num_workers=self.num_workers,
            device=self.device,
            labels=labels,
            is_last=index == self.spec.training.bootstrap,
            fold=self._fold,
        )

    @property
    def dataset(self) -> Dataset:
        """With the labels of the training under way."""
        return self.run.dataset

    @property
    def steps_per_epoch(self) -> int:
        return self.run.steps_per_epoch

    @property
    def is_sharded(self) -> bool:
        return self.run.is_sharded

    @property
    def steps_done(self) -> int:
        return self.run.steps_done

    def train_epoch(self, epoch: int, after_step: Callable[[], None] | None = None) -> dict[str, float]:
        """Trains one epoch, counted from 1 over all trainings, or after a restore in its middle the rest of it.

        Returns:
            The metrics of `TrialRun.train_epoch`, the same on every rank.

        Raises:
            DivergedError: the mean training loss is not finite.
        """
        index, before = divmod(epoch - 1, self.spec.epochs_per_training)
        if index > self._index:
            self._begin(index, predictions(self.run))
        record = dict(self.run.train_epoch(before + 1, after_step))
        record["epoch"] = float(epoch)
        if index:
            record["num_passes"] += self.history[index * self.spec.epochs_per_training - 1]["num_passes"]
        self.history.append(record)
        return record

    def save_weights(self, uri: str) -> None:
        """Those of the training under way, with the whole trial in the file's metadata."""
        from samtune.models.saved import save_weights

        save_weights(uri, self.run.evaluated_model, self.spec, self.dataset, self.history[-1], rank=self.rank)

    def state_dict(self) -> dict[str, Any]:
        return {
            "history": self.history,
            "steps_done": self.steps_done,
            "index": self._index,
            "labels": self._labels,
            "run": self.run.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["index"] != self._index:
            self._begin(state["index"], None if state["labels"] is None else state["labels"].cpu())
        self.run.load_state_dict(state["run"])
        self.history = state["history"]

    def rank_state_dict(self) -> dict[str, Any]:
        return self.run.rank_state_dict()

    def load_rank_state_dict(self, state: dict[str, Any]) -> None:
        self.run.load_rank_state_dict(state)

    def share_of(self, states: list[dict[str, Any]]) -> dict[str, Any]:
        return self.run.share_of(states)


@torch.no_grad()
def predictions(run: TrialRun) -> Tensor:
    """int64 [num training examples]: the classes that the evaluated weights predict for the images as they are."""
    normalise, model = Normalise(run.dataset, run.device), run.evaluated_model
    model.eval()
    return predicted_labels(
        run.dataset,
        lambda inputs: tree.output_tensor(tree.call(model, normalise(inputs))).argmax(dim=1),
        batch_size=run.evaluation_batch,
        rank=run.rank,
        num_workers=run.num_workers,
        device=run.device,
        is_collective=run.is_sharded,
    )


def check_classes(dataset: Dataset) -> None:
    """Raises UsageError where a network's answer is no class, which could be a label."""
    if not dataset.traits.classes:
        raise UsageError(f"training.bootstrap: needs targets that are classes; those of {dataset.config.name} are not")
