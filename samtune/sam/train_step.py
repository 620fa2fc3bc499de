"""One training step of any method on one rank: the step is a function of (B, m, the data), not of the workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from samtune.sam import parts, sharded_step, tree, vectors
from samtune.sam.batch_statistics import RunningStatistics, averaged
from samtune.sam.conditional_step import step_if
from samtune.sam.data_parallel import data_parallel
from samtune.sam.diagnostics import Diagnostics, merged_state
from samtune.sam.gradients import gradients_of
from samtune.sam.group_runner import GroupOrder, GroupRunner
from samtune.sam.layout import GroupLayout
from samtune.sam.method import MethodLike
from samtune.sam.randomness import ModelNoise
from samtune.sam.rule_guard import guard_of
from samtune.sam.rules.base import Rule
from samtune.sam.running_state import RunningState
from samtune.sam.shards import local, reshard, settle
from samtune.sam.weights import Weights
from samtune.sam.when import When
from samtune.sam.where import perturbed_parameters

LossFunction = Callable[[Any, Any], Tensor]
Examples = Callable[[int], tuple[Any, Any]]


class TrainStep:
    """Trains a model step by step. Call it with this worker's shard of the batch; it does not wait for the device.

    The update direction is the mean over all m-groups of the batch of what the method makes of each; then gradient
    clipping, then the base optimizer's step at the restored weights. Gradients are averaged by one all-reduce per step,
    which DistributedDataParallel overlaps with the last backward, as in plain SGD. A gradient that is not finite in
    either pass on any worker makes all workers skip the step.

    A model that `fully_shard` (FSDP2) has sharded needs a method with m = "global": its backward leaves one gradient,
    averaged over all workers. Each worker then holds its part of ε̂, of the gradients and of what methods keep.

    Args:
        model: the bare module, already on its device; parameters must have the same values on all workers.
        loss_fn: (outputs, targets) -> mean loss over the examples, a scalar. It gets what the model returns; where the
            targets are None, the inputs take their place.
        optimizer: the base optimizer. The parameters it holds that require a gradient are the w of the method.
        method: `samtune.sam.Method`, or a configuration of a search space.
        batch_size: examples per call over all workers.
        num_workers, rank: this worker's place; with more than one, torch's default process group is initialised.
        seed: keys dropout masks, random directions and masks, with the step and the group.
        precision: fp32, or autocast to bf16 / fp16 (weights stay as they are; fp16 scales the loss dynamically).
        clip_norm: largest 2-norm of the averaged gradient.
        accumulate: calls per step of the optimizer; the step is that of one batch with `accumulate` times the examples.
        m_groups: how the m-groups of a worker run: `loop`, one after another; `vectorized`, side by side in one pass
            wherever that is exact; `auto`: that if a trial on the first batch shows it to be clearly faster. The
            results agree to rounding.

    Raises:
        ValueError: the batch or m does not fit the workers, the method does not fit the optimizer, the model is
            wrapped, its parameters are complex, or sharded otherwise than `fully_shard` does; or they are sharded, and
            the method needs an m-group of a worker's own.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction,
        optimizer: torch.optim.Optimizer,
        method: MethodLike,
        *,
        batch_size: int,
        num_workers: int = 1,
        rank: int = 0,
        seed: int = 0,
        precision: Literal["fp32", "bf16", "fp16"] = "fp32",
        clip_norm: float | None = None,
        accumulate: int = 1,
        m_groups: GroupOrder = "loop",
    ) -> None:
        if accumulate < 1:
            raise ValueError(f"accumulate must be at least 1 (got {accumulate})")
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            raise ValueError(f"model must be the bare module, which the step wraps itself (got {type(model).__name__})")
        if any(group.get("maximize") for group in optimizer.param_groups):
            raise ValueError("optimizer must minimise (maximize is True): negate the loss instead")
        self.model, self.loss_fn, self.optimizer, self.method = model, loss_fn, optimizer, method
        self.parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        factors = [g.get("rho_factor", 1.0) for g in optimizer.param_groups for p in g["params"] if p.requires_grad]
        self.rho_factors = None if all(factor == 1 for factor in factors) else factors
        """Of each parameter, what its group in the optimizer multiplies ε̂ by; None: nothing."""
        settle(model)
        self.device = self.parameters[0].device if self.parameters else torch.device("cpu")
        self.seed, self.clip_norm, self.accumulate = seed, clip_norm, accumulate
        place = {"batch_size": batch_size, "num_workers": num_workers, "rank": rank}
        self._plain_layout = GroupLayout.resolve("worker", **place)
        self._method_layout = GroupLayout.resolve(method.group_size, **place)
        self.layout = self._plain_layout
        self.weights = Weights(self.parameters, sharded=True)
        self.shards = self.weights.shards
        """How `fully_shard` has cut up the parameters; None: it has not."""
        if self.shards is not None:
            self.weights.before_move = lambda: reshard(model)
        self.parts = self.weights.parts
        """What this worker has of the parameters, what rules work with: all, or its part of each."""
        self.statistics = RunningStatistics(model)
        self.state = RunningState(model.modules())
        self.noise = ModelNoise(self.device, model)
        self.diagnostics = Diagnostics(self.parameters, self.device)
        self.num_steps = 0
        """Steps of the optimizer so far, skipped ones included."""
        self.num_method_steps = 0
        """Those of them that were the method's, not the base optimizer's."""
        self._when: When = getattr(method, "when", When())
        self._peak_lr = optimizer.param_groups[0]["lr"] if getattr(method, "rho_follows_lr", False) else None
        self._plain_rule = Rule(self.parts, seed)
        with parts.over_shards(self.shards):
            self._method_rule = method.make_rule(self.parts, seed)
        if self.shards is not None:
            sharded_step.check_sharded(self.shards, self._method_rule, self._method_layout)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._method_rule.names = [names.get(id(parameter), "") for parameter in self.parameters]
        perturb = getattr(method, "perturb", "all")
        self._method_rule.perturbed = perturbed_parameters(model, self.parameters, perturb)
        self._method_rule.check(optimizer)
        self.guard = guard_of(self._method_rule, self.weights)
        self.set_precision(precision)
        self._distributed: nn.parallel.DistributedDataParallel | None = None
        self._model_parameters = list(model.parameters())  # the optimizer need not hold all of them
        self._used = [False] * len(self.parameters)
        self.num_calls = 0
        """Of batches of the present step so far, with `accumulate`."""
        self._groups = GroupRunner(self, m_groups)
        self._averages_at_end = False  # the workers' gradients, instead of in the last backward
        self._epoch, self._total_steps, self._steps_per_epoch, self._steps_in_epoch = 0, 1, 1, 0
        self._passes = 0.0

    # -- the face ----------------------------------------------------------------------------------------------------

    def begin_epoch(
        self,
        epoch: int,
        num_epochs: int,
        *,
        steps_per_epoch: int,
        examples: Examples | None = None,
        steps_done: int = 0,
        total_steps: int | None = None,
    ) -> None:
        """Before the steps of an epoch: sets the schedules and refreshes what a method keeps over epochs.

        Args:
            epoch: counted from 0.
            examples: n -> n training examples, the same on every rank.
            steps_done: steps of the epoch that were made before a resume.
            total_steps: of the whole training; None: its last epoch has as many steps as the others.
        """
        self._epoch, self._steps_per_epoch = epoch, steps_per_epoch
        self._total_steps = num_epochs * steps_per_epoch if total_steps is None else total_steps
        self._steps_in_epoch = steps_done
        if self.guard is not None:
            self.guard.is_due = True
        if steps_done == 0:
            with parts.over_shards(self.shards):
                self._method_rule.begin_epoch(self, epoch, num_epochs, examples)

    def __call__(self, inputs: Any, targets: Any) -> None:
        """One step (with `accumulate`, one of its batches).

        Args:
            inputs, targets: rows [r·b, (r+1)·b) of the batch for rank r, on the device: tensors, or dicts, lists and
                tuples of such. A dict of inputs is passed to the model as keyword arguments. Targets may be None.
        """
        examples = tree.num_examples((inputs, targets))
        if examples != self._plain_layout.worker_batch_size:
            raise ValueError(
                f"a worker's batch must have batch_size / num_workers examples, {self._plain_layout.worker_batch_size} "
                f"(got {examples})"
            )
        rho = self._rho()
        plain = rho == 0.0
        rule = self._plain_rule if plain else self._method_rule
        run = rule if plain or self.guard is None else self.guard
        self.layout = self._plain_layout if plain else self._method_layout
        if self.num_calls == 0:
            self._clear_gradients()
            self._state_before = self.state.save()
        size = self.layout.forward_size
        with self.noise.borrowed(), parts.over_shards(self.shards):
            stacked = self.shards is None and self._groups.are_vectorized(rule, inputs, targets)
            self._averages_at_end = self.shards is None and (stacked or not rule.ends_in_backward)
            is_wrapped = self.shards is None and self.layout.num_workers > 1 and not self._averages_at_end
            if is_wrapped and self._distributed is None:
                self._distributed = self._wrap(*tree.take((inputs, targets), slice(size)))
            self._groups.run(rule, run, inputs, targets, rho)
            self.num_calls += 1
            if self.num_calls == self.accumulate:
                self.num_calls = 0
                self._update(rule)
                self.num_method_steps += not plain

    def epoch_metrics(self) -> dict[str, float]:
        """The means over the steps since the last call, the same on every rank. A collective."""
        return self.diagnostics.reduce(self.layout.num_workers)

    def average_running_statistics(self) -> None:
        """Averages BatchNorm's running statistics over the workers, before an evaluation. A collective."""
        self.statistics.average(self.layout.num_workers)

    @property
    def passes(self) -> float:
        """Passes over the training set so far: forwards and backwards of a whole batch / steps per epoch."""
        return self._passes / self._steps_per_epoch

    def set_precision(self, precision: Literal["fp32", "bf16", "fp16"]) -> None:
        """Changes the arithmetic of forward and backward between two steps; the scale of fp16's loss begins anew."""
        self._autocast_dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        self._scaler = torch.amp.GradScaler(self.device.type) if precision == "fp16" else None

    def state_dict(self) -> dict[str, Any]:
        """Everything that a bit-exact resume needs between two steps, but for the model's own state.

        Of sharded parameters it holds whole tensors, so that any number of workers can go on; then it is a collective.
        """
        state: dict[str, Any] = {
            "optimizer": sharded_step.whole_optimizer_state(self.optimizer),
            "num_steps": self.num_steps,
            "num_method_steps": self.num_method_steps,
            "passes": self._passes,
            "rule": sharded_step.whole_rule_state(self._method_rule, self.shards),
            "m_groups": self._groups.state_dict(),
        }
        if self._scaler is not None:
            state["scaler"] = self._scaler.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `state_dict`; call `begin_epoch` next."""
        self.optimizer.load_state_dict(sharded_step.cut_optimizer_state(self.optimizer, state["optimizer"]))
        self.num_steps = state["num_steps"]
        self.num_method_steps = state.get("num_method_steps", self.num_steps)  # 0.1.0 had no plain steps in between
        self._passes = state["passes"]
        self._method_rule.load_state_dict(sharded_step.cut_rule_state(self._method_rule, self.shards, state["rule"]))
        self._groups.load_state_dict(state.get("m_groups", {}))
        if self._scaler is not None:
            self._scaler.load_state_dict(state["scaler"])

    def rank_state_dict(self) -> dict[str, Any]:
        """What in the middle of an epoch differs between the ranks: running statistics, and the metrics so far."""
        return {"statistics": self.statistics.flat(), "diagnostics": self.diagnostics.state_dict()}

    def load_rank_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `rank_state_dict`, after `load_state_dict`."""
        self.statistics.load(state["statistics"])
        self.diagnostics.load_state_dict(state["diagnostics"])

    def share_of(self, states: list[dict[str, Any]]) -> dict[str, Any]:
        """For `load_rank_state_dict`, this rank's part of the `rank_state_dict` of all ranks of another layout."""
        layout = self._method_layout
        rank, workers, groups = layout.rank, layout.num_workers, layout.num_groups
        diagnostics, chosen = [state["diagnostics"] for state in states], range(rank, len(states), workers)
        return {
            "statistics": averaged([state["statistics"] for state in states]),
            "diagnostics": merged_state(diagnostics, chosen, max(groups, workers) / max(groups, len(states))),
        }

    # -- what m-groups ask -------------------------------------------------------------------------------------------

    @property
    def progress(self) -> float:
        """Share of the training that is done, in [0, 1]."""
        steps_done = self._epoch * self._steps_per_epoch + self._steps_in_epoch
        return min(1.0, steps_done / self._total_steps)

    @property
    def looks_at_perturbations(self) -> bool:
        """Whether metrics need the groups' ε̂ at this step."""
        return self.diagnostics.looks_at_perturbations

    @property
    def num_forwards(self) -> int:
        """Forwards on this worker that are averaged into one update."""
        return self.layout.num_micro_groups * self.accumulate

    def outer_module(self, index: int) -> nn.Module:
        """The module for a group's last forward and backward: the last group's synchronises the gradients."""
        last = index == self.num_forwards - 1
        return self._distributed if last and self._distributed is not None and not self._averages_at_end else self.model

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of a forward."""
        if self._autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self._autocast_dtype)

    @property
    def is_full_precision(self) -> bool:
        """Whether forwards run in the precision of the weights."""
        return self._autocast_dtype is None

    def scaled(self, loss: Tensor) -> Tensor:
        """loss · loss scale (fp16)."""
        return loss if self._scaler is None else self._scaler.scale(loss)

    def inverse_scale(self) -> Tensor | None:
        """1 / loss scale; None where there is none."""
        return None if self._scaler is None else self._scaler.scale(torch.ones((), device=self.device)).reciprocal()

    def count_pass(self, passes: float = 1.0) -> None:
        """Counts forwards and backwards of one group, in units of the whole batch."""
        self._passes += passes / self.num_forwards

    def note_used(self, gradients: Sequence[Tensor | None]) -> None:
        """Remembers which parameters ever had a gradient: the optimizer must not touch the others."""
        if not all(self._used):
            self._used = [used or gradient is not None for used, gradient in zip(self._used, gradients, strict=True)]

    def gradients_of(self, loss: Tensor, only: Sequence[int] | None = None) -> list[Tensor | None]:
        """What this worker has of ∇loss, None where the loss does not depend on a parameter; `.grad` stays as it is.

        It is that of this worker's loss; of sharded parameters that of the mean loss over the workers.

        Args:
            only: positions of the parameters whose gradient is wanted; None: all.
        """
        if self.shards is None:
            return gradients_of(loss, self.parameters, only=only)
        return sharded_step.gradients_of_parts(loss, self.parameters, self._model_parameters, only)

    def average_(self, vector: Sequence[Tensor]) -> None:
        """Overwrites a vector made of this worker's gradients with its mean over the workers."""
        if self.layout.num_workers > 1 and self.shards is None:
            vectors.average_(vector, self.layout.num_workers)

    def add_to_gradients(self, vector: Sequence[Tensor]) -> None:
        """`.grad` += vector."""
        for parameter, used, part in zip(self.parameters, self._used, vector, strict=True):
            if used:
                sharded_step.add_to_gradient(parameter, part)

    # -- internals ---------------------------------------------------------------------------------------------------

    def _rho(self) -> float:
        """The radius at this step; 0 where the step is the base optimizer's."""
        progress = self.progress
        if not self._when.holds(self.num_steps, progress, self.seed):
            return 0.0
        if self._peak_lr is not None:
            progress = min(1.0, max(0.0, 1.0 - float(self.optimizer.param_groups[0]["lr"]) / self._peak_lr))
        return float(self.method.rho_at(progress))

    def _clear_gradients(self) -> None:
        for parameter in self._model_parameters:
            parameter.grad = None

    def _wrap(self, inputs: Any, targets: Any) -> nn.parallel.DistributedDataParallel:
        def loss() -> Tensor:
            with self.autocast():
                return self.loss_fn(tree.call(self.model, inputs), tree.for_loss(inputs, targets))

        return data_parallel(self.model, loss, self._model_parameters, self.state)

    @torch.no_grad()
    def _update(self, rule: Rule) -> None:
        gradients = [p.grad for p in self.parameters]
        for index, gradient in enumerate(gradients):
            if gradient is not None and gradient.layout is not torch.strided:
                self.parameters[index].grad = gradients[index] = gradient.to_dense()
        if self.shards is not None:
            gradients = [None if gradient is None else local([gradient])[0] for gradient in gradients]
        present = [gradient for gradient in gradients if gradient is not None]
        if self._averages_at_end:
            self.average_(present)
        if self._scaler is not None:
            self._scaler.unscale_(self.optimizer)
        rule.finish(self, gradients)
        measures = self.clip_norm is not None or self.shards is not None or not rule.has_ascent_gradient
        norm = vectors.norm(present) if measures or self.looks_at_perturbations else None
        finite = vectors.are_finite(present) if norm is None else torch.isfinite(norm)
        if norm is not None and not rule.has_ascent_gradient:
            self.diagnostics.add("gradient_norm", norm)
        self.diagnostics.add_update(gradients, norm, finite)
        if self.clip_norm is not None and norm is not None and self.shards is not None:
            sharded_step.clip_(present, self.clip_norm, norm)
        elif self.clip_norm is not None and norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.clip_norm, norm)
        step_if(finite, self.optimizer)
        torch.clear_autocast_cache()  # of a region around the step
        self._state_before.restore_unless(finite)
        if self._scaler is not None:
            self._scaler.update()
        self.num_steps += 1
        self._steps_in_epoch += 1
