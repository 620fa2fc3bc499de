"""The steps of a training function: the method and the base optimizer of its configuration, scheduled and counted."""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from samtune.config.method import ASAMConfig, SAMConfig
from samtune.config.method_base import BaseOptimizerConfig, PerturbedConfig
from samtune.config.trial import TrialSpec
from samtune.errors import UsageError
from samtune.sam import SAM, TrainStep
from samtune.sam.sharded_step import cut_optimizer_state, whole_optimizer_state
from samtune.train.arithmetic import Arithmetic, Capabilities, Precision
from samtune.train.optimizers import (
    base_optimizer,
    hyperparameters,
    learning_rate,
    sam_optimizer,
    set_hyperparameters,
)
from samtune.train.session import Place
from samtune.train.trial_loader import TrialLoader, moved


class TrialStep:
    """One step of the configured method per call, `step(inputs, targets)`; does not wait for the device.

    Every method, m-groups, precision and clipping: see `samtune.sam.TrainStep`. The learning rate follows the
    configured schedule.

    Args:
        model: the bare module, on the device.
        loss_fn: (outputs, targets) -> mean over the examples.
        loader: what an epoch goes through; its length is the number of steps. Or that number.
    """

    def __init__(
        self,
        spec: TrialSpec,
        place: Place,
        model: nn.Module,
        loss_fn: Callable[[Any, Any], Tensor],
        loader: Sized | int,
    ) -> None:
        self._spec, self._place, self._loader = spec, place, loader
        self.model, self.optimizer = model, base_optimizer(spec.training, model)
        self._step = TrainStep(
            model,
            loss_fn,
            self.optimizer,
            spec.method,
            batch_size=_batch_size(spec, loader),
            num_workers=place.num_workers,
            rank=place.rank,
            seed=spec.seed,
            precision=Arithmetic.chosen(spec.training, Capabilities.of(place.device)).precision,
            clip_norm=spec.training.clip_norm,
            m_groups=spec.training.m_groups,
        )
        self._steps_per_epoch = _steps(loader)
        self._lr, self._averaged_at, self._begun_at = spec.training.lr, 0, 0

    def __call__(self, inputs: Any, targets: Any) -> None:
        done = self._step.num_steps
        self._lr = _set_lr(self.optimizer, self._spec, done, self._steps_per_epoch)
        self._step(moved(inputs, self._place.device), moved(targets, self._place.device))
        if done + 1 - self._begun_at == self._steps_per_epoch:  # an evaluation comes next
            self._average()

    def begin_epoch(self, epoch: int) -> None:
        """Before the steps of an epoch, counted from 1."""
        self._begun_at = self._step.num_steps
        examples = self._loader.examples if isinstance(self._loader, TrialLoader) else None
        self._step.begin_epoch(
            epoch - 1, self._spec.num_epochs, steps_per_epoch=self._steps_per_epoch, examples=examples
        )

    def end_epoch(self) -> dict[str, float]:
        """The epoch's metrics, the same on every rank. A collective."""
        if self._step.num_steps != self._averaged_at:
            self._average()
        return {**self._step.epoch_metrics(), "lr": self._lr, "num_passes": self._step.passes}

    def state_dict(self) -> dict[str, Any]:
        return self._step.state_dict()

    def set_precision(self, precision: Precision) -> None:
        """Of the following steps; call it before `load_state_dict`."""
        self._step.set_precision(precision)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there, with this trial's own hyperparameters: the state may be another trial's (PBT)."""
        own = hyperparameters(self.optimizer)
        self._step.load_state_dict(state)
        set_hyperparameters(self.optimizer, own)
        self._averaged_at = self._step.num_steps

    def _average(self) -> None:
        self._step.average_running_statistics()
        self._averaged_at = self._step.num_steps


class OptimizerSteps:
    """The steps of an optimizer that takes closures: `samtune.sam.SAM`, or the base optimizer alone.

    Sets learning rate and radius before each step, counts it, and averages the losses that closures note.

    Args:
        model: with or without DistributedDataParallel around it.
        loader: as of `TrialStep`.

    Raises:
        UsageError: the method, or a key of the training, cannot be had from an optimizer alone.
    """

    def __init__(self, spec: TrialSpec, place: Place, model: nn.Module, loader: Sized | int) -> None:
        _check_optimizer(spec, _batch_size(spec, loader) // place.num_workers)
        self._spec, self._place = spec, place
        self._method = spec.method
        self._steps_per_epoch = _steps(loader)
        self._total_steps = self._steps_per_epoch * spec.num_epochs
        bare = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
        self.optimizer: torch.optim.Optimizer = (
            sam_optimizer(spec.training, spec.method, bare, total_steps=self._total_steps, seed=spec.seed)
            if isinstance(spec.method, SAMConfig | ASAMConfig) and spec.passes_per_step > 1
            else base_optimizer(spec.training, bare)
        )
        self.losses: list[Tensor] = []
        """Of the first run of each closure, detached."""
        self._num_steps, self._lr = 0, spec.training.lr
        self.optimizer.register_step_pre_hook(lambda *_: self._before_step())

    def _before_step(self) -> None:
        self._lr = _set_lr(self.optimizer, self._spec, self._num_steps, self._steps_per_epoch)
        if isinstance(self.optimizer, SAM) and isinstance(self._method, PerturbedConfig):
            progress = min(1.0, self._num_steps / self._total_steps)
            progress = 1.0 - self._lr / self._spec.training.lr if self._method.rho_follows_lr else progress
            rho = self._method.rho_at(min(1.0, max(0.0, progress)))
            for group in self.optimizer.param_groups:
                group["rho"] = rho * group.get("rho_factor", 1.0)
        self._num_steps += 1

    def begin_epoch(self, epoch: int) -> None:
        """Before the steps of an epoch."""
        self.losses.clear()

    def end_epoch(self) -> dict[str, float]:
        """The epoch's metrics, the same on every rank. A collective."""
        passes = self.optimizer.param_groups[0].get("sam_passes", self._num_steps)
        found = {"lr": self._lr, "num_passes": passes / self._steps_per_epoch}
        if not self.losses:
            return found
        losses = torch.stack(self.losses).double()
        sums = torch.stack([losses.sum(), torch.ones_like(losses).sum()])
        if self._place.num_workers > 1:
            dist.all_reduce(sums)
        total, count = sums.tolist()
        return {"train_loss": total / count, **found}

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": whole_optimizer_state(self.optimizer), "num_steps": self._num_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As of `TrialStep`."""
        own = hyperparameters(self.optimizer)
        self.optimizer.load_state_dict(cut_optimizer_state(self.optimizer, state["optimizer"]))
        set_hyperparameters(self.optimizer, own)
        self._num_steps = state["num_steps"]


def _check_optimizer(spec: TrialSpec, per_worker: int) -> None:
    method, training = spec.method, spec.training
    hint = "trial.train_step has all methods"
    if not isinstance(method, SAMConfig | ASAMConfig | BaseOptimizerConfig):
        raise UsageError(f"method.name: trial.optimizer takes sam, asam, sgd or adamw (got {method.name}); {hint}")
    if isinstance(method, PerturbedConfig):
        plain = type(method)()
        for key in ("ascent", "ascent_steps", "step_size", "second_order"):
            if getattr(method, key, None) != getattr(plain, key, None):
                raise UsageError(f"method.{key}: trial.optimizer does not take it (got {getattr(method, key)}); {hint}")
        if method.m not in ("worker", "global", per_worker):
            raise UsageError(
                f"method.m: trial.optimizer takes worker, global or a worker's {per_worker} examples "
                f"(got {method.m}); {hint}"
            )
    if training.clip_norm is not None or training.precision == "fp16":
        key = "clip_norm" if training.clip_norm is not None else "precision"
        got = getattr(training, key)
        raise UsageError(f"training.{key}: trial.optimizer does not take it (got {got}); {hint}")


def _batch_size(spec: TrialSpec, loader: Sized | int) -> int:
    return loader.batch_size if isinstance(loader, TrialLoader) else spec.training.batch_size


def _steps(loader: Sized | int) -> int:
    try:
        return loader if isinstance(loader, int) else len(loader)
    except TypeError:
        kind = type(loader).__name__
        problem = f"the loader of a step must have a length, the steps of an epoch, or be that number (got {kind})"
        raise UsageError(problem) from None


def _set_lr(optimizer: torch.optim.Optimizer, spec: TrialSpec, done: int, steps_per_epoch: int) -> float:
    lr = learning_rate(spec.training, done, num_epochs=spec.num_epochs, steps_per_epoch=steps_per_epoch)
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_factor", 1.0)
    return lr
