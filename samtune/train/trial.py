"""The training of one trial on one worker: build, epochs, evaluation. Knows torch and its process group, not Ray."""

from __future__ import annotations

import math
import time
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from samtune.data import Split, eval_batches, load_dataset, steps_per_epoch, train_batches, training_examples
from samtune.models import build_model
from samtune.sam import TrainStep
from samtune.spec.training import TrainingConfig
from samtune.spec.trial import TrialSpec
from samtune.train.checkpoint import CheckpointFolder
from samtune.train.schedule import learning_rate

EVAL_BATCH_SIZE = 1024  # examples per worker and forward of an evaluation


class DivergedError(Exception):
    """The training loss is no longer finite. Raised on every rank alike, since the loss is reduced over all."""


class TrialRun:
    """One trial on one rank. Everything is fresh but the data set, which stays loaded in the process.

    The result is a function of the spec (its seed included) and of m, not of the process, of what ran before it, or,
    up to rounding, of the number of workers (METHODS section 1).

    Args:
        spec: what to train.
        rank, num_workers: this worker's place; with more than one, torch's default process group is initialised.
    """

    def __init__(self, spec: TrialSpec, *, rank: int, num_workers: int, device: torch.device) -> None:
        self.spec, self.rank, self.num_workers, self.device = spec, rank, num_workers, device
        self.history: list[dict[str, float]] = []
        """The metrics of all finished epochs, those before a restore included."""
        torch.manual_seed(spec.seed)
        training = spec.training
        self.dataset = load_dataset(spec.data)
        self.steps_per_epoch = steps_per_epoch(self.dataset, batch_size=training.batch_size)
        self.model = build_model(
            spec.model, num_classes=self.dataset.num_classes, input_shape=self.dataset.input_shape, seed=spec.seed
        ).to(device)
        self.optimizer = base_optimizer(training, self.model)
        self.train_step = TrainStep(
            self.model,
            nn.CrossEntropyLoss(label_smoothing=training.label_smoothing),
            self.optimizer,
            spec.method,
            batch_size=training.batch_size,
            num_workers=num_workers,
            rank=rank,
            seed=spec.seed,
            precision=training.precision,
            clip_norm=training.clip_norm,
        )

    def restore(self, checkpoints: CheckpointFolder) -> None:
        """Goes on from the newest checkpoint that verifies, if there is one; then `history` holds its epochs.

        Raises:
            RuntimeError: the workers do not see the same checkpoint.
        """
        state = checkpoints.load(self.device)
        epoch = 0 if state is None else int(state["epoch"])
        if self.num_workers > 1:
            seen = torch.tensor([epoch, -epoch], device=self.device)
            dist.all_reduce(seen, dist.ReduceOp.MAX)
            if seen[0] != -seen[1]:
                raise RuntimeError(
                    f"the workers see different checkpoints in {checkpoints.uri}, of epochs {-seen[1]} to {seen[0]}: "
                    "the storage path must be shared by all nodes"
                )
        if state is not None:
            self.model.load_state_dict(state["model"])
            self.train_step.load_state_dict(state["train_step"])
            self.history = state["history"]

    def save(self, checkpoints: CheckpointFolder) -> None:
        """Saves the state after the last finished epoch; call it on one rank, they all have the same.

        Raises:
            CheckpointError: it could not be written.
        """
        checkpoints.save(
            len(self.history),
            {
                "epoch": len(self.history),
                "model": self.model.state_dict(),
                "train_step": self.train_step.state_dict(),
                "history": self.history,
            },
        )

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Trains one epoch and evaluates.

        Args:
            epoch: counted from 1.

        Returns:
            The epoch's metrics, the same on every rank.

        Raises:
            DivergedError: the mean training loss is not finite.
        """
        started = time.perf_counter()
        training = self.spec.training
        self.model.train()
        self.train_step.begin_epoch(
            epoch - 1,
            training.epochs,
            steps_per_epoch=self.steps_per_epoch,
            examples=partial(training_examples, self.dataset, device=self.device),
        )
        batches = train_batches(
            self.dataset,
            self.spec.data,
            batch_size=training.batch_size,
            rank=self.rank,
            num_workers=self.num_workers,
            seed=self.spec.seed,
            epoch=epoch - 1,
            device=self.device,
        )
        first_step = (epoch - 1) * self.steps_per_epoch
        lr = training.lr
        for step, (inputs, targets) in enumerate(batches, start=first_step):
            lr = learning_rate(training, step, self.steps_per_epoch)
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            self.train_step(inputs, targets)
        metrics = self.train_step.epoch_metrics()
        train_seconds = time.perf_counter() - started
        if not math.isfinite(metrics["train_loss"]):
            raise DivergedError(f"diverged: train_loss is {metrics['train_loss']} in epoch {epoch}")
        self.train_step.average_running_statistics()
        val_loss, val_accuracy = self.evaluate(self.dataset.validation)
        record = {
            "epoch": float(epoch),
            **metrics,
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
            "lr": lr,
            "num_passes": float(self.train_step.passes),
            "train_seconds": train_seconds,
            "epoch_seconds": time.perf_counter() - started,
        }
        self.history.append(record)
        return record

    @torch.no_grad()
    def evaluate(self, split: Split) -> tuple[float, float]:
        """Mean cross-entropy (without label smoothing) and accuracy over a split, each example counted once."""
        self.model.eval()
        totals = torch.zeros(3, dtype=torch.float64, device=self.device)  # loss, correct, examples
        batches = eval_batches(
            self.dataset,
            split,
            batch_size=EVAL_BATCH_SIZE,
            rank=self.rank,
            num_workers=self.num_workers,
            device=self.device,
        )
        for inputs, targets in batches:
            totals += _loss_and_correct(self.model(inputs), targets)
        if self.num_workers > 1:
            dist.all_reduce(totals)
        loss, correct, examples = totals.tolist()
        return loss / examples, correct / examples


def _loss_and_correct(outputs: Tensor, targets: Tensor) -> Tensor:
    loss = nn.functional.cross_entropy(outputs.float(), targets, reduction="sum").double()
    correct = (outputs.argmax(dim=1) == targets).sum().double()
    return torch.stack([loss, correct, torch.full_like(loss, len(targets))])


def base_optimizer(config: TrainingConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that takes the step at w, as torch has it."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    # One kernel over all parameters, which also skips a step whose gradient is not finite without asking the host.
    fused = bool(parameters) and parameters[0].device.type == "cuda"
    if config.optimizer == "adamw":
        return torch.optim.AdamW(
            parameters,
            lr=config.lr,
            betas=(config.momentum, 0.999),
            weight_decay=config.weight_decay,
            fused=fused,
        )
    return torch.optim.SGD(
        parameters,
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
        fused=fused,
    )
