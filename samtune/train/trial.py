"""The training of one trial on one worker: build, epochs, evaluation. Knows torch and its process group, not Ray."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from samtune.config.trial import TrialSpec
from samtune.data import (
    Split,
    batches_of_steps,
    eval_batches,
    load_dataset,
    steps_per_epoch,
    stream_reader,
    training_examples,
)
from samtune.errors import UsageError
from samtune.models import build_model
from samtune.preflight import check_stream_training
from samtune.sam import TrainStep, tree
from samtune.sam.batch_statistics import averaged
from samtune.sam.shards import reshard
from samtune.train.arithmetic import Arithmetic, Capabilities
from samtune.train.averaging import WeightAverage
from samtune.train.checkpoint import Resumable
from samtune.train.diagnostics import measure_diagnostics
from samtune.train.labels import relabelled
from samtune.train.loss import training_loss
from samtune.train.memory_order import begins_in_channels_last, in_channels_last, may_be_channels_last, set_order
from samtune.train.metrics import evaluation_metrics
from samtune.train.network import compile_model, widened
from samtune.train.optimizers import base_optimizer, hyperparameters, learning_rate, set_hyperparameters
from samtune.train.plain_state import why_not_saved
from samtune.train.sharding import in_step, load_whole_model_state, shard, whole_model_state
from samtune.train.stateful_metrics import StatefulMetrics

EVAL_BATCH_SIZE = 1024  # examples per worker and forward of an evaluation


class DivergedError(Exception):
    """The training loss is no longer finite. Raised on every rank alike, since the loss is reduced over all."""


class TrialRun(Resumable):
    """One trial on one rank. Everything is fresh but the data set, which stays loaded in the process.

    The result is a function of the spec (its seed included) and of m, not of the process or of what ran before it; up
    to rounding not of the number of workers either, nor of what `training.m_groups: auto` finds to be faster.

    Args:
        spec: what to train.
        rank, num_workers: this worker's place; with more than one, torch's default process group is initialised.
        labels: int64 [num training examples]; instead of the data set's.
        is_last: False where another training of the same trial follows: a final trial looks at the test set after that.
        fold: with `data.folds`, the one that validates.
    """

    def __init__(
        self,
        spec: TrialSpec,
        *,
        rank: int,
        num_workers: int,
        device: torch.device,
        labels: Tensor | None = None,
        is_last: bool = True,
        fold: int = 0,
    ) -> None:
        self.spec, self.rank, self.num_workers, self.device = spec, rank, num_workers, device
        self.history: list[dict[str, float]] = []
        """The metrics of all finished epochs, those before a restore included."""
        self._steps_done, self._seconds_before = 0, 0.0
        torch.manual_seed(spec.seed)
        training = spec.training
        self.dataset = load_dataset(spec.examples, fold)
        self._is_last = is_last
        if labels is not None:
            self.dataset = self.dataset.with_labels(labels)
        elif spec.data.relabel is not None:
            self.dataset = relabelled(
                self.dataset, spec.data.relabel, spec.model, rank=rank, num_workers=num_workers, device=device
            )
        self.evaluated = "test" if self.dataset.validation.is_empty else "val"
        """What the metrics of an evaluation begin with: without a validation set, the test set is evaluated."""
        self._reader = stream_reader(self.dataset, self.dataset.train, seed=spec.seed)
        if self._reader is not None:
            check_stream_training(training, spec.data.name)
        full_batches = steps_per_epoch(self.dataset, batch_size=training.batch_size)
        self.steps_per_epoch = training.evaluation_interval or full_batches
        self.total_steps = training.steps or self.steps_per_epoch * spec.num_epochs
        self.model = build_model(
            spec.model, num_classes=self.dataset.num_classes, input_shape=self.dataset.input_shape, seed=spec.seed
        ).to(device)
        self.arithmetic = Arithmetic.chosen(
            training, Capabilities.of(device), may_be_channels_last=may_be_channels_last(self.model, spec, device)
        )
        if self.arithmetic.channels_last:
            stays = begins_in_channels_last(self.model, spec, self.dataset, device)
            self.arithmetic = replace(self.arithmetic, channels_last=stays)
        self.average = None if training.ema is None else WeightAverage(self.model, training.ema)
        """The weights that are evaluated, where these are not the trained ones."""
        if training.parallel == "fsdp":
            for network in self._networks:
                shard(network, device)
        self.optimizer = base_optimizer(training, self.model)
        self.train_step = TrainStep(
            self.model,
            training_loss(training),
            self.optimizer,
            spec.method,
            batch_size=training.batch_size // training.accumulate,
            num_workers=num_workers,
            rank=rank,
            seed=spec.seed,
            precision=self.arithmetic.precision,
            clip_norm=training.clip_norm,
            accumulate=training.accumulate,
            m_groups=training.m_groups,
        )
        if training.compile:
            compile_model(self.model, self.train_step.num_forwards)
        self._measures = evaluation_metrics(training, classes=self.dataset.traits.classes)
        self._stateful = StatefulMetrics(training, device)
        self.evaluation_batch = EVAL_BATCH_SIZE if training.evaluation_batch == "auto" else training.evaluation_batch

    def state_dict(self) -> dict[str, Any]:
        """Everything it takes to resume the trial after its last finished epoch; the same on all ranks.

        Raises:
            UsageError: the optimizer, or the data, keeps something that is no tensor, number or text.
        """
        state: dict[str, Any] = {
            "model": whole_model_state(self.model),
            "train_step": self.train_step.state_dict(),
            "history": self.history,
            "steps_done": self._steps_done,
            "arithmetic": self.arithmetic.state(),
        }
        if self._reader is not None:
            state["stream"] = self._reader.state_dict()
            if problem := why_not_saved(state["stream"], "the state of its training set"):
                raise UsageError(f"data.name: {self.spec.data.name}: {problem}")
        if self.average is not None:
            state["average"] = self.average.state_dict()
        name = f"the state of {self.spec.training.optimizer_name}"
        if problem := why_not_saved(state["train_step"]["optimizer"], name):
            raise UsageError(f"training.optimizer: {problem}")
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there, with this trial's own hyperparameters: the state may be another trial's (PBT)."""
        self._go_on_with(self.arithmetic.resumed(self.spec.training, state.get("arithmetic")))
        load_whole_model_state(self.model, state["model"])
        own = hyperparameters(self.optimizer)
        self.train_step.load_state_dict(state["train_step"])
        set_hyperparameters(self.optimizer, own)
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self._reader is not None:
            self._reader.load_state_dict(state["stream"])
        self.history, self._steps_done = state["history"], state.get("steps_done", 0)

    def _go_on_with(self, arithmetic: Arithmetic) -> None:
        if arithmetic == self.arithmetic:
            return
        if arithmetic.channels_last != self.arithmetic.channels_last:
            for network in self._networks:
                set_order(network, channels_last=arithmetic.channels_last)
        if arithmetic.precision != self.arithmetic.precision:
            self.train_step.set_precision(arithmetic.precision)
        self.arithmetic = arithmetic

    @property
    def evaluated_model(self) -> nn.Module:
        """The network with the weights that are evaluated: the averaged ones, where there are any."""
        return self.model if self.average is None else self.average.model

    @property
    def _networks(self) -> list[nn.Module]:
        """The trained one, and where it is another, the evaluated one."""
        return list(dict.fromkeys((self.model, self.evaluated_model)))

    @property
    def is_sharded(self) -> bool:
        return self.train_step.shards is not None

    @property
    def steps_done(self) -> int:
        return self._steps_done

    def rank_state_dict(self) -> dict[str, Any]:
        """What in the middle of an epoch differs between the ranks."""
        return {
            "train_step": self.train_step.rank_state_dict(),
            "average": None if self.average is None else self.average.statistics.flat(),
            "seconds": self._seconds_before + time.perf_counter() - self._started,
        }

    def load_rank_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self.train_step.load_rank_state_dict(state["train_step"])
        if self.average is not None:
            self.average.statistics.load(state["average"])
        self._seconds_before = state["seconds"]

    def share_of(self, states: list[dict[str, Any]]) -> dict[str, Any]:
        """As of `Resumable`. The seconds are those of the slowest rank."""
        return {
            "train_step": self.train_step.share_of([state["train_step"] for state in states]),
            "average": averaged([state["average"] for state in states]),
            "seconds": max(state["seconds"] for state in states),
        }

    def train_epoch(self, epoch: int, after_step: Callable[[], None] | None = None) -> dict[str, float]:
        """Trains one epoch, counted from 1, or after a restore in its middle the rest of it, and evaluates.

        Args:
            after_step: called after every step but the last, on every rank; `save` may be called from it.

        Returns:
            The metrics, the same on every rank.

        Raises:
            DivergedError: the mean training loss is not finite.
        """
        with self.arithmetic.in_force():
            return self._train_epoch(epoch, after_step)

    def _train_epoch(self, epoch: int, after_step: Callable[[], None] | None) -> dict[str, float]:
        self._started = time.perf_counter()
        metrics, lr = self._train_steps(epoch, after_step)
        train_seconds = self._seconds_before + time.perf_counter() - self._started
        if not math.isfinite(metrics["train_loss"]):
            before = _best_before(self.history)
            raise DivergedError(f"diverged: train_loss is {metrics['train_loss']} in epoch {epoch}{before}")
        self.train_step.average_running_statistics()
        if self.average is not None:
            self.average.average_over(self.num_workers)
        evaluation = {}
        is_end = self._is_last and epoch == self.spec.num_epochs
        if not self.spec.final or self.evaluated == "val" or is_end:
            split = self.dataset.validation if self.evaluated == "val" else self.dataset.load_test()
            evaluation = {f"{self.evaluated}_{name}": value for name, value in self.evaluate(split).items()}
        config = self.spec.training.diagnostics
        diagnostics, cost = measure_diagnostics(
            config.due(epoch, self.spec.num_epochs) if config else [],
            self.evaluated_model,
            self.dataset,
            self.spec,
            rank=self.rank,
            num_workers=self.num_workers,
            device=self.device,
        )
        self.train_step.count_pass(cost * self.steps_per_epoch * self.train_step.num_forwards)
        record = {
            "epoch": float(epoch),
            **({"num_steps": float(self._last_step_of(epoch))} if self.spec.training.steps else {}),
            **metrics,
            **evaluation,
            **diagnostics,
            "lr": lr,
            "num_passes": float(self.train_step.passes),
            "train_seconds": train_seconds,
            "epoch_seconds": self._seconds_before + time.perf_counter() - self._started,
        }
        self.history.append(record)
        self._steps_done, self._seconds_before = 0, 0.0
        return record

    def _train_steps(self, epoch: int, after_step: Callable[[], None] | None) -> tuple[dict[str, float], float]:
        """The epoch's steps that are not done yet; its training metrics and the last learning rate."""
        training = self.spec.training
        self.model.train()
        first, last = (epoch - 1) * self.steps_per_epoch, self._last_step_of(epoch)
        self.train_step.begin_epoch(
            epoch - 1,
            self.spec.num_epochs,
            steps_per_epoch=self.steps_per_epoch,
            examples=partial(training_examples, self.dataset, device=self.device),
            steps_done=self._steps_done,
            total_steps=self.total_steps,
        )
        batches = batches_of_steps(
            self.dataset,
            self.spec.data,
            first + self._steps_done,
            last,
            batch_size=training.batch_size,
            rank=self.rank,
            num_workers=self.num_workers,
            seed=self.spec.seed,
            reader=self._reader,
            device=self.device,
            accumulate=training.accumulate,
        )
        lr = training.lr
        for inputs, targets in batches:
            done = self.train_step.num_steps
            lr = learning_rate(
                training,
                done,
                num_epochs=self.spec.num_epochs,
                steps_per_epoch=self.steps_per_epoch,
                total_steps=self.total_steps,
            )
            for group in self.optimizer.param_groups:
                group["lr"] = lr * group.get("lr_factor", 1.0)
            self.train_step(self._laid_out(inputs), targets)
            if self.train_step.num_steps == done:
                continue  # more of the batch is to come
            self._steps_done += 1
            if self.average is not None:
                self.average.update(self.train_step.num_steps)
            if after_step is not None and first + self._steps_done < last:
                after_step()
        metrics = self.train_step.epoch_metrics()
        if not self.dataset.traits.classes:  # outputs in the shape of the targets look like those of a classification
            metrics = {name: v for name, v in metrics.items() if name not in ("train_accuracy", "error_sharpness")}
        return metrics, lr

    def _last_step_of(self, epoch: int) -> int:
        """How many steps are done after an epoch, which may be cut short by `training.steps`."""
        return min(epoch * self.steps_per_epoch, self.total_steps)

    def save_weights(self, uri: str) -> None:
        """Writes the weights that are evaluated, and in the file's metadata all it takes to build their network.

        Raises:
            OSError: the store does not take them.
        """
        from samtune.models.saved import save_weights

        save_weights(uri, self.evaluated_model, self.spec, self.dataset, self.history[-1], rank=self.rank)

    def evaluate(self, split: Split) -> dict[str, float]:
        """Loss (without label smoothing), accuracy and the user's metrics over a split, each example counted once.

        Of the averaged weights, where there are any.
        """
        while True:
            try:
                totals = self._totals(split)
                break
            except torch.OutOfMemoryError:
                if self.spec.training.evaluation_batch != "auto" or self.evaluation_batch == 1 or self.is_sharded:
                    raise
                self.evaluation_batch //= 2
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
        if self.num_workers > 1:
            dist.all_reduce(totals)
        sizes = [metric.num_parts for metric in self._measures.values()]
        parts = torch.split((totals[:-1] / totals[-1]).cpu(), sizes)
        found = {name: metric.value(means) for (name, metric), means in zip(self._measures.items(), parts, strict=True)}
        return {**found, **self._stateful.compute()}

    @torch.no_grad()
    def _totals(self, split: Split) -> Tensor:
        """Sums of the measures over this worker's share of a split, and its examples; float64."""
        model = self.evaluated_model
        model.eval()
        self._stateful.begin()
        totals = torch.zeros(
            sum(metric.num_parts for metric in self._measures.values()) + 1, dtype=torch.float64, device=self.device
        )
        batches = eval_batches(
            self.dataset,
            split,
            batch_size=self.evaluation_batch,
            rank=self.rank,
            num_workers=self.num_workers,
            device=self.device,
        )
        for (inputs, targets), counts in self._evenly(batches):
            # On a CPU autocast saves nothing.
            with nullcontext() if self.device.type == "cpu" else self.train_step.autocast():
                outputs = tree.call(model, self._laid_out(inputs))
            if not counts:
                continue
            outputs = tree.map_tensors(widened, outputs)
            second = tree.for_loss(inputs, targets)
            means = [metric.parts(outputs, second) for metric in self._measures.values()]
            self._stateful.update(outputs, second)
            totals += tree.num_examples((inputs, targets)) * torch.cat([*means, torch.ones_like(means[0])])
        reshard(model)
        return totals

    def _evenly(self, batches: Iterable[Any]) -> Iterator[tuple[Any, bool]]:
        """Batches of an evaluation, and whether they count; see `in_step`."""
        if not self.is_sharded:
            return ((batch, True) for batch in batches)
        return in_step(batches, self.device, spare=training_examples(self.dataset, 1, device=self.device))

    def _laid_out(self, inputs: Any) -> Any:
        """Inputs in the memory format that the configuration says."""
        return in_channels_last(inputs) if self.arithmetic.channels_last else inputs


def _best_before(history: list[dict[str, float]]) -> str:
    """What preceded a divergence: the epoch of the lowest loss, for the message.

    SAM's ε̂ has the length rho however small the gradient is: where the loss was almost 0, the step is that of a point
    at a fixed distance, which may be large.
    """
    if not history:
        return ""
    best = min(history, key=lambda record: record["train_loss"])
    parts = [f"train_loss was {best['train_loss']:.2g} in epoch {best['epoch']:.0f}"]
    if "gradient_norm" in best:
        parts.append(f"the gradient's norm {best['gradient_norm']:.2g}")
    if "relative_perturbation" in best:
        parts.append(f"the perturbation {best['relative_perturbation']:.2%} of the weights")
    return f" ({', '.join(parts)})"
