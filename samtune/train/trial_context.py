"""`TrialContext`: the one object that a training function of the user's gets."""

from __future__ import annotations

import copy
import math
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import Dataset
from torch.utils.hooks import RemovableHandle

from samtune.config.parallel import sharding_problem
from samtune.config.trial import TrialSpec
from samtune.errors import UsageError
from samtune.sam import tree
from samtune.train.arithmetic import Precision
from samtune.train.loss import Measure
from samtune.train.network import widened
from samtune.train.session import Host, Place, epochs
from samtune.train.sharding import in_step, is_sharded_model, shard, share_buffers
from samtune.train.trial import DivergedError
from samtune.train.trial_loader import TrialLoader, moved, seed_of
from samtune.train.trial_state import FunctionRun, TrainFunctionError, UserConfig, bare
from samtune.train.trial_steps import OptimizerSteps, TrialStep
from samtune.user_code import given_in, resolve_function

_RESERVED = ("epoch", "lr", "epoch_seconds")


class TrialContext:
    """What a training function of the user's is called with, on every worker of a group: `def train(trial): ...`.

    Random numbers (of torch, numpy and random) are seeded by the trial's seed before the call, the same on all workers,
    and again at the start of each epoch, differently on each: a trial that resumes repeats them.

    Attributes:
        config: the `config` section of the space, with the searched values of this trial.
        spec: the whole configuration: `trial.spec.training.lr`, `trial.spec.method`.
        rank, num_workers, device: this worker's place.
        seed: of the trial.
        num_epochs: of the whole trial.
        evaluate_on_test: the trial is of a confirmation: train on all training examples, evaluate the test set; what is
            reported as `val_…` is recorded as `test_…`, and needed after the last epoch only.
        state: for values of one's own (tensors, numbers, text, nested), which are saved and resumed.
    """

    def __init__(self, spec: TrialSpec, place: Place, host: Host) -> None:
        self.spec, self.rank, self.num_workers, self.device = spec, place.rank, place.num_workers, place.device
        self.config: dict[str, Any] = UserConfig(given_in(copy.deepcopy(spec.config)))
        self.seed, self.num_epochs, self.evaluate_on_test = spec.seed, spec.num_epochs, spec.evaluates_test
        self.state: dict[str, Any] = {}
        self._place, self._host = place, host
        self._run = FunctionRun(spec, place, self.state)
        self._steps: list[TrialStep | OptimizerSteps] = []
        self._loaders: list[TrialLoader] = []
        self._sharing: dict[int, RemovableHandle] = {}
        self._reported: dict[str, float] | None = None
        self._epoch_seconds = 0.0
        self._has_begun = self._is_over = False

    # -- what a loop is made of --------------------------------------------------------------------------------------

    def loader(
        self, dataset: Dataset[Any], batch_size: int | None = None, *, train: bool = True, **options: Any
    ) -> TrialLoader:
        """Batches of a data set on this worker's device.

        Args:
            batch_size: examples over all workers; None: `training.batch_size`.
            train: shuffled, in whole batches, each split over the workers; else each worker has its own examples, in
                order, and each example is seen once.
            options: of torch's DataLoader: num_workers, collate_fn, pin_memory, …
        """
        size = self.spec.training.batch_size if batch_size is None else batch_size
        loader = TrialLoader(dataset, size, train=train, seed=self.seed, place=self._place, options=options)
        self._loaders.append(loader)
        return loader

    def train_step(self, model: nn.Module, loss_fn: Callable[[Any, Any], Tensor], loader: Sized | int) -> TrialStep:
        """A step of the configured method, called as `step(inputs, targets)` with this worker's part of a batch.

        Every method of samtune, with m-groups; `training` gives the base optimizer, its schedule, precision and
        clipping. Metrics such as train_loss and sharpness are recorded, passes counted, all state is saved.

        Args:
            model: the bare module, which is moved to the device and, with `training.parallel: fsdp`, sharded; or one
                that `distribute` has sharded.
            loss_fn: (outputs, targets) -> mean loss over the examples.
            loader: what an epoch goes through; its length is the number of steps. Or that number.
        """
        model = model.to(self.device)
        self._shard(model, None, {})
        if id(model) in self._sharing:  # the step averages running statistics
            self._sharing.pop(id(model)).remove()
        step = TrialStep(self.spec, self._place, model, loss_fn, loader)
        self._run.add("model", model)
        self._run.add("step", step)
        self._steps.append(step)
        return step

    def distribute(
        self, model: nn.Module, *, parallel: Literal["ddp", "fsdp"] | None = None, **options: Any
    ) -> nn.Module:
        """The network on this worker's device, shared by the workers where there are several; it is saved.

        Args:
            parallel: `ddp`: DistributedDataParallel around it; `fsdp`: each worker has a part of it, by `fully_shard`
                of its blocks (children that hold parameters; of a Sequential, its children) and then of the rest, in
                place. A network that you have sharded yourself stays as it is. None: `training.parallel`.
            options: of DistributedDataParallel (find_unused_parameters, static_graph, …) or of fully_shard.

        Raises:
            UsageError: the configuration, or the network, does not go with `fsdp`.
        """
        model = model.to(self.device)
        self._run.add("model", model)
        is_cut_up = self._shard(model, parallel, options)
        if self.num_workers == 1:
            return model
        if is_cut_up:
            self._sharing[id(model)] = share_buffers(model)
            return model
        return nn.parallel.DistributedDataParallel(
            model, device_ids=[self.device] if self.device.type == "cuda" else None, **options
        )

    def _shard(self, model: nn.Module, parallel: str | None, options: dict[str, Any]) -> bool:
        """Whether the workers have parts of the network, which are made here unless they are there."""
        sharded = is_sharded_model(model)
        if not sharded and (parallel or self.spec.training.parallel) != "fsdp":
            return False
        if problem := sharding_problem(self.spec.method, self.spec.training):
            raise UsageError(": ".join(problem))
        if not sharded:
            shard(model, self.device, **options)
        return True

    def optimizer(self, model: nn.Module, loader: Sized | int) -> torch.optim.Optimizer:
        """An optimizer that takes closures: `samtune.sam.SAM` for sam and asam, the base optimizer for sgd and adamw.

        The learning rate and the radius follow the configuration before every step, passes are counted, its state is
        saved. For loops whose loss is not a function of (outputs, targets) alone; `train_step` has all methods.

        Args:
            model: with or without DistributedDataParallel.
            loader: as of `train_step`.
        """
        steps = OptimizerSteps(self.spec, self._place, model, loader)
        self._run.add("optimizer", steps)
        self._steps.append(steps)
        return steps.optimizer

    def closure(
        self, model: Callable[..., Any], loss_fn: Callable[[Any, Any], Tensor], inputs: Any, targets: Any
    ) -> Callable[[], Tensor]:
        """For `optimizer.step`: zeroes the gradients, computes the loss in the configured precision, and its gradient.

        The loss at w is recorded, as train_loss.
        """
        steps = [step for step in self._steps if isinstance(step, OptimizerSteps)]
        optimizers, losses = [step.optimizer for step in steps], steps[0].losses if steps else []
        autocast, count = self.autocast, len(losses)

        def run() -> Tensor:
            for optimizer in optimizers:
                optimizer.zero_grad()
            with autocast():
                loss = loss_fn(tree.call(model, inputs), tree.for_loss(inputs, targets))
            loss.backward()  # type: ignore[no-untyped-call]
            if len(losses) == count:  # at w; the next run is at w + ε̂
                losses.append(loss.detach())
            return loss

        return run

    def autocast(self) -> AbstractContextManager[Any]:
        """The configured precision of a forward; `auto` stays what it was when the trial began."""
        if self.precision == "fp32":
            return nullcontext()
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float16
        return torch.autocast(self.device.type, dtype=dtype)

    @property
    def precision(self) -> Precision:
        """`fp32`, `bf16` or `fp16`; of a trial that resumes, settled where `epochs` has begun."""
        return self._run.arithmetic.precision

    def evaluate(self, model: nn.Module, loader: Iterable[Any], **measures: Measure) -> dict[str, float]:
        """Means over the examples of all workers, in evaluation mode and the configured precision. A collective.

        Modules that were in training mode are in it again afterwards.

        Args:
            loader: of (inputs, targets); each worker goes through examples of its own.
            measures: by name, (outputs, targets) -> mean over the examples.
        """
        training = [module for module in model.modules() if module.training]
        model.eval()
        totals = torch.zeros(len(measures) + 1, dtype=torch.float64, device=self.device)  # and the examples
        together = self.num_workers > 1 and is_sharded_model(bare(model))
        batches = in_step(loader, self.device) if together else ((batch, True) for batch in loader)
        with torch.no_grad():
            for batch, counts in batches:
                inputs, targets = moved(batch, self.device)
                with self.autocast():
                    outputs = tree.call(bare(model), inputs)
                if not counts:
                    continue
                if isinstance(outputs, Tensor):
                    outputs = widened(outputs)
                second = tree.for_loss(inputs, targets)
                means = [measure(outputs, second).double() for measure in measures.values()]
                totals += tree.num_examples((inputs, targets)) * torch.stack([*means, torch.ones_like(means[0])])
        for module in training:  # an evaluation in the middle of an epoch changes nothing
            module.training = True
        if self.num_workers > 1:
            dist.all_reduce(totals)
        *sums, examples = totals.tolist()
        if not examples:
            raise TrainFunctionError(f"{self.spec.train}: trial.evaluate: the loader has no examples")
        return {name: total / examples for name, total in zip(measures, sums, strict=True)}

    def sum(self, *values: float | Tensor) -> list[float]:
        """The sums of numbers over all workers, e.g. of correct answers and of examples. A collective."""
        total = torch.tensor([float(value) for value in values], dtype=torch.float64, device=self.device)
        if self.num_workers > 1:
            dist.all_reduce(total)
        sums: list[float] = total.tolist()
        return sums

    # -- epochs ------------------------------------------------------------------------------------------------------

    def epochs(self, **parts: Any) -> Iterator[int]:
        """The epochs to train, counted from 1: after a resume those that are missing; fewer where a scheduler stops it.

        In each, `report` is called, on every worker. Networks are in training mode at its start. The trial is saved
        between epochs when that is due.

        Args:
            parts: what is saved and resumed beside what `distribute`, `train_step` and `optimizer` have made: anything
                with state_dict and load_state_dict.
        """
        if self._has_begun:
            raise TrainFunctionError(f"{self.spec.train} calls trial.epochs twice: a trial is one training")
        self._has_begun = True
        for name, part in parts.items():
            self._run.add(name, part)
        self._run.has_begun = True
        for epoch in epochs(self._run, self.spec, self._host):
            self._begin(epoch)
            yield epoch
            self._run.history.append(self._record(epoch))
            if not self._run.is_sharded:  # whose state is collected after every epoch anyway, piece by piece
                self._run.state_dict()  # whether it can be saved shows in the first epoch, not when it is lost
        self._is_over = True

    def report(self, *, average: bool = False, **metrics: float | Tensor) -> None:
        """What an epoch has measured. On every worker; the first worker's numbers count.

        Args:
            average: record the mean over the workers instead.
            metrics: numbers by name; several calls in an epoch add up to one record.
        """
        own = {self._name(name): self._number(name, value) for name, value in metrics.items()}
        if self._reported is None:
            raise TrainFunctionError(f"{self.spec.train} calls trial.report outside of `for epoch in trial.epochs()`")
        if self.num_workers > 1:
            every: list[Any] = [None] * self.num_workers
            dist.all_gather_object(every, own)
            if average and any(each.keys() != own.keys() for each in every):
                raise TrainFunctionError(f"{self.spec.train} reports other metrics on other workers")
            own = {name: sum(each[name] for each in every) / len(every) for name in own} if average else every[0]
        self._reported |= own

    def check_ended(self) -> None:
        """After the function's return. Raises TrainFunctionError where it has left something out."""
        if self._is_over:
            return
        what = "without a loop over trial.epochs()"
        if self._has_begun:
            what = (
                f"after {len(self._run.history)} of {self.num_epochs} epochs: it must go through all of trial.epochs()"
            )
        raise TrainFunctionError(f"{self.spec.train} returned {what}; a scheduler ends a trial early")

    # -- internals ---------------------------------------------------------------------------------------------------

    def _begin(self, epoch: int) -> None:
        self._reported, self._started = {}, time.perf_counter()
        seed_all(seed_of(self.seed, epoch, self.rank))
        for loader in self._loaders:
            loader.epoch = epoch
        for step in self._steps:
            step.begin_epoch(epoch)
        for part in self._run.parts.values():
            if isinstance(part, nn.Module):
                part.train()

    def _record(self, epoch: int) -> dict[str, float]:
        """The epoch's metrics, the same on every rank."""
        reported, self._reported = self._reported or {}, None
        record = {"epoch": float(epoch), "num_passes": float(epoch)}  # one in an epoch, where nobody counts them
        for step in self._steps:
            record |= step.end_epoch()
        record |= reported | {"epoch_seconds": time.perf_counter() - self._started}
        is_needed = not self.evaluate_on_test or epoch == self.num_epochs
        if is_needed:
            self._check_reported(epoch, reported, record)
        for name in ("train_loss", *self._host.metrics):
            if not math.isfinite(record.get(name, 0.0)):
                raise DivergedError(f"diverged: {name} is {record[name]} in epoch {epoch}")
        return record

    def _check_reported(self, epoch: int, reported: dict[str, float], record: dict[str, float]) -> None:
        where = f"{self.spec.train}: epoch {epoch} ended without"
        missing = [name for name in self._host.metrics if name not in record]
        if not reported:
            needed = ", ".join(f"{name}=…" for name in missing or ["val_loss"])
            raise TrainFunctionError(f"{where} trial.report({needed})")
        if missing:
            names = ", ".join(reported)
            raise TrainFunctionError(f"{where} {missing[0]}, which is the objective (reported: {names})")

    def _name(self, name: str) -> str:
        if name in _RESERVED:
            raise TrainFunctionError(f"{self.spec.train} reports {name}, which samtune measures: choose another name")
        return f"test_{name[4:]}" if self.evaluate_on_test and name.startswith("val_") else name

    def _number(self, name: str, value: Any) -> float:
        try:
            return float(value)
        except (TypeError, ValueError, RuntimeError):
            got = type(value).__name__
            raise TrainFunctionError(f"{self.spec.train} reports {name}, which must be a number (got {got})") from None


def seed_all(seed: int) -> None:
    """Seeds torch, random, and numpy where it is imported."""
    torch.manual_seed(seed)
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)


def call_train_function(spec: TrialSpec, place: Place, host: Host) -> None:
    """Trains a trial by the training function that its configuration names.

    Raises:
        DivergedError: on every rank alike: the objective or the training loss is not finite.
        TrainFunctionError: the function does not keep to what is asked of it.
        Exception: whatever it raises.
    """
    assert spec.train is not None
    function = resolve_function(spec.train, "train")
    seed_all(spec.seed)
    trial = TrialContext(spec, place, host)
    function(trial)
    trial.check_ended()
