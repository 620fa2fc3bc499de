"""Runs the m-groups of a step: one after another, or side by side where that is exact and pays."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from samtune.sam import tree, vectors
from samtune.sam.gradients import gradients_of
from samtune.sam.m_group import MGroup
from samtune.sam.rules.base import Rule
from samtune.sam.running_state import SavedState
from samtune.sam.stacked_model import StackedModel
from samtune.sam.vectorized_groups import StackedGroups, fits

if TYPE_CHECKING:
    from samtune.sam.train_step import TrainStep

GroupOrder = Literal["auto", "loop", "vectorized"]

MOST_WEIGHTS = 2**24  # of all groups together: larger networks fill a processor with one group, and a copy costs memory
WORTH_IT = 0.8  # of the loop's time; near 1 the choice would be left to chance
_ROUNDS = 3

_worth_it: dict[Any, bool] = {}
"""What was timed in this process, by network and shapes: a worker trains hundreds of trials."""


class GroupRunner:
    """How the m-groups of a `TrainStep` run.

    Side by side they are one stacked pass (`StackedGroups`), which agrees with the loop to rounding. That is the
    case where the rule fits, a comparison with the loop on the first batch shows the same, and, with `auto`, a timing
    on that batch shows that it pays. All workers go the same way, and a resumed trial goes on as it began.

    Args:
        how: `loop`, `vectorized` wherever that is exact, or `auto`.
    """

    def __init__(self, step: TrainStep, how: GroupOrder) -> None:
        if how not in ("auto", "loop", "vectorized"):
            raise ValueError(f"m_groups must be auto, loop or vectorized (got {how!r})")
        self._step, self._how = step, how
        self._model = StackedModel(step.model, step.loss_fn, step.parameters)
        self._agreed: dict[str, Any] | None = None  # the decision, and the number of groups it is for
        self._is_able = True  # whether no pass of this worker's has failed since

    def state_dict(self) -> dict[str, Any]:
        """The decision: it changes the rounding, so that a resumed trial must not take another."""
        return {} if self._agreed is None else dict(self._agreed)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `state_dict`."""
        self._agreed = dict(state) if state else None

    def are_vectorized(self, rule: Rule, inputs: Any, targets: Any) -> bool:
        """Whether this call's groups run side by side on all workers. A collective when it is first asked.

        Args:
            inputs, targets: this worker's batch.
        """
        count = self._step.layout.num_micro_groups
        if self._how == "loop" or count == 1 or not fits(rule):
            return False
        if self._agreed is None or self._agreed["num_groups"] != count:
            found = self._is_exact_and_pays(inputs, targets)
            if self._step.layout.num_workers > 1:
                flag = torch.tensor(float(found), device=self._step.device)
                dist.all_reduce(flag, dist.ReduceOp.MIN)
                found = bool(flag)
            self._agreed = {"num_groups": count, "vectorized": found}
        return bool(self._agreed["vectorized"])

    def run(self, rule: Rule, run: Callable[[MGroup], None], inputs: Any, targets: Any, rho: float) -> None:
        """Runs all groups of a call.

        Args:
            run: the rule, or its guard.
        """
        stacked = self.are_vectorized(rule, inputs, targets) and self._is_able
        if not (stacked and self._run_stacked(rule, inputs, targets, rho)):
            self._run_loop(rule, run, inputs, targets, rho)

    # -- internals ---------------------------------------------------------------------------------------------------

    @property
    def _first(self) -> int:
        """Index of the call's first group among this worker's groups of the step."""
        return self._step.num_calls * self._step.layout.num_micro_groups

    def _run_loop(self, rule: Rule, run: Callable[[MGroup], None], inputs: Any, targets: Any, rho: float) -> None:
        step = self._step
        size, count = step.layout.forward_size, step.layout.num_micro_groups
        for micro in range(count):
            batch = inputs, targets
            if count > 1:
                batch = tree.take(batch, slice(micro * size, (micro + 1) * size))
            group = MGroup(step, *batch, index=self._first + micro, rho=rho)
            try:
                with step.weights.held():
                    run(group)
                    self._diagnose(group, rule)
            finally:
                group.settle()

    def _run_stacked(self, rule: Rule, inputs: Tensor, targets: Tensor, rho: float) -> bool:
        """False: nothing was done, since the network has changed into one that does not fit."""
        step = self._step
        stack = StackedGroups(step, self._model, *self._split(inputs, targets), first=self._first, rho=rho)
        try:
            stack.run(rule)
        except Exception:  # dropout that has begun, a lack of memory: whatever it is, the loop may be able to do it
            if stack.has_run:
                raise
            self._is_able = False
            return False
        for group in stack.groups:
            self._diagnose(group, rule)
        return True

    def _diagnose(self, group: MGroup, rule: Rule) -> None:
        step, layout = self._step, self._step.layout
        step.weights.restore()
        counts = layout.rank % layout.workers_per_group == 0
        step.diagnostics.add_group(group, rule.sharpness(group.losses), step.parts, p=rule.p, counts=counts)

    def _split(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Views [K, m, ...]."""
        shape = (self._step.layout.num_micro_groups, self._step.layout.forward_size)
        return inputs.view(*shape, *inputs.shape[1:]), targets.view(*shape, *targets.shape[1:])

    # -- the decision ------------------------------------------------------------------------------------------------

    def _is_exact_and_pays(self, inputs: Any, targets: Any) -> bool:
        step = self._step
        if not (isinstance(inputs, Tensor) and isinstance(targets, Tensor) and self._model.is_plain):
            return False
        if step.layout.num_micro_groups * sum(p.numel() for p in step.parameters) > MOST_WEIGHTS:
            return False
        before = step.state.save()
        try:
            return self._agree(inputs, targets, before) and self._pays(inputs, targets)
        finally:
            before.restore()

    def _agree(self, inputs: Tensor, targets: Tensor, before: SavedState) -> bool:
        """Whether losses, gradients and running statistics are those of the loop."""
        step = self._step
        wanted = [*self._losses_and_gradients_of_loop(inputs, targets), *step.state.save().values]
        before.restore()
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", message=".*batching rule.*")  # vmap falls back to a loop of its own
                found = [*self._losses_and_gradients(inputs, targets), *step.state.save().values]
        except Exception:  # what vmap refuses, or the network does not take
            return False
        tolerance = self._rounding()
        return [tensor.shape for tensor in found] == [tensor.shape for tensor in wanted] and all(
            bool((a.double() - b.double()).norm() <= tolerance * (b.double().norm() + 1e-12))
            for a, b in zip(found, wanted, strict=True)
        )

    def _rounding(self) -> float:
        """Largest relative difference that rounding explains."""
        dtypes = {parameter.dtype for parameter in self._step.parameters}
        if not self._step.is_full_precision or dtypes & {torch.float16, torch.bfloat16}:
            return 0.1
        return 1e-9 if dtypes == {torch.float64} else 1e-3

    def _pays(self, inputs: Tensor, targets: Tensor) -> bool:
        if self._how == "vectorized":
            return True
        step = self._step
        key = (
            *(repr(step.model), type(step.model), step.layout.num_micro_groups),
            *((tensor.shape, tensor.stride(), tensor.dtype) for tensor in (inputs, targets, *step.parameters)),
            *(step.device, step.is_full_precision, torch.get_num_threads()),
        )
        if key not in _worth_it:
            # Other processes on the machine do not slow down a thread's own clock; but it misses helpers' work.
            alone = step.device.type == "cpu" and torch.get_num_threads() == 1
            clock = time.thread_time if alone else time.perf_counter
            seconds: dict[Any, list[float]] = {self._losses_and_gradients_of_loop: [], self._losses_and_gradients: []}
            for _ in range(_ROUNDS):
                for passes, taken in seconds.items():
                    started = clock()
                    # Reading a number waits for an accelerator.
                    float(vectors.norm(passes(inputs, targets)))
                    taken.append(clock() - started)
            loop, stacked = (min(taken) for taken in seconds.values())
            _worth_it[key] = stacked < WORTH_IT * loop
        return _worth_it[key]

    def _losses_and_gradients_of_loop(self, inputs: Tensor, targets: Tensor) -> list[Tensor]:
        """[K, ...] at w, by one pass per group."""
        step = self._step
        losses, gradients = [], []
        for place, (x, y) in enumerate(zip(*self._split(inputs, targets), strict=True)):
            with step.statistics.update(self._first + place, step.num_forwards), step.autocast():
                loss = step.loss_fn(step.model(x), y)
            losses.append(loss.detach())
            gradients.append(_filled(gradients_of(loss, step.parameters), step.parameters))
        return [torch.stack(losses), *vectors.stacked(gradients)]

    def _losses_and_gradients(self, inputs: Tensor, targets: Tensor) -> list[Tensor]:
        """The same by one pass."""
        step = self._step
        count = step.layout.num_micro_groups
        weights = [p.detach().expand(count, *p.shape).requires_grad_() for p in step.parameters]
        with step.statistics.update(self._first, step.num_forwards, count), step.autocast():
            losses, _, statistics = self._model.forward(weights, *self._split(inputs, targets))
        self._model.keep_statistics(statistics)
        return [losses.detach(), *_filled(gradients_of(losses.sum(), weights), weights)]


def _filled(gradients: list[Tensor | None], parameters: list[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, parameters, strict=True)]
