"""A rule of the user's inside `SAM`: its m-group is what the closure computes on this worker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NoReturn, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from samtune.sam import vectors
from samtune.sam.closure_hooks import ascent_run, descent_run
from samtune.sam.layout import GroupLayout
from samtune.sam.m_group import MGroup
from samtune.sam.randomness import ModelNoise
from samtune.sam.rule_guard import RuleError, RuleGuard
from samtune.sam.rules.base import Rule
from samtune.sam.running_state import RunningState
from samtune.sam.weights import Weights


class ClosureStep:
    """What a rule's group sees of a step of `SAM`; see `TrainStep`. It computes gradients by running the closure.

    Every run is at the present weights, with the same random numbers, and without an all-reduce: the share is averaged
    over the workers of DistributedDataParallel once, at the end.

    Args:
        rule: of the step.
        weights: all parameters of the optimizer.
        optimizer: the base optimizer.
        modules: that the closure may call.
        run: the closure.
        m: `worker`, or `global` for gradients that are averaged over all workers.
        num_steps, num_method_steps: as `TrainStep` has them.
    """

    num_forwards = 1
    looks_at_perturbations = False

    def __init__(
        self,
        rule: Rule,
        weights: Weights,
        optimizer: Optimizer,
        modules: Sequence[nn.Module],
        run: Callable[[], Any],
        *,
        m: str,
        num_steps: int,
        num_method_steps: int,
    ) -> None:
        self.rule, self.weights, self.optimizer, self._modules, self._run = rule, weights, optimizer, modules, run
        self.parameters, self.parts, self.seed = weights.parameters, weights.parts, rule.seed
        self.shards = None
        self.num_steps, self.num_method_steps = num_steps, num_method_steps
        self.device = self.parameters[0].device if self.parameters else torch.device("cpu")
        self.guard = RuleGuard(rule, weights)
        self.guard.is_due = num_method_steps % 100 == 0  # it takes a copy of w
        groups = optimizer.param_groups
        self.rho = max(group["rho"] for group in groups)
        factors = [group["rho"] / self.rho for group in groups for _ in group["params"]]
        self.rho_factors = None if all(factor == 1 for factor in factors) else factors
        wrapper = next((module for module in modules if isinstance(module, DistributedDataParallel)), None)
        self._workers = None if wrapper is None else wrapper.process_group
        size, rank = (1, 0) if wrapper is None else (dist.get_world_size(self._workers), dist.get_rank(self._workers))
        self.layout = GroupLayout.resolve(
            "global" if m == "global" else "worker", batch_size=size, num_workers=size, rank=rank
        )
        self.num_runs = 0
        self.loss: Any = None
        """What the first run returned."""
        self._share: list[Tensor] = [torch.zeros_like(parameter) for parameter in self.parameters]
        self._used = [False] * len(self.parameters)
        self._noise = ModelNoise(self.device)
        self._random = self._noise.state()
        self._state = RunningState(modules)

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        self.refuse(f"the step's {name}")

    def refuse(self, what: str) -> NoReturn:
        """Raises RuleError for what a closure cannot give."""
        raise RuleError(
            f"the rule {type(self.rule).__qualname__} asks for {what}, which SAM as an optimizer cannot give: "
            "it has the closure alone; train with samtune.sam.TrainStep"
        )

    def take(self) -> Any:
        """Runs the rule, and leaves the update direction in `.grad`.

        Returns:
            The loss at w.
        """
        with self.weights.held():
            self.guard(ClosureGroup(self))
        with torch.no_grad():
            if self.layout.num_workers > 1:
                used = torch.tensor(self._used, dtype=torch.float32, device=self.device)
                dist.all_reduce(used, dist.ReduceOp.MAX, group=self._workers)
                self._used = [bool(flag) for flag in used.tolist()]
                vectors.average_(self._share, self.layout.num_workers, self._workers)
            gradients = [part if used else None for part, used in zip(self._share, self._used, strict=True)]
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                parameter.grad = gradient
            self.rule.finish(cast(Any, self), gradients)
        return self.loss

    def closure_gradient(self, *, ascent: bool) -> tuple[Any, list[Tensor]]:
        """What the closure returns, and this worker's own gradient, zeros where there is none."""
        first = self.num_runs == 0
        if not first:
            self._noise.set_state(self._random)
            after = self._state.save()
        for parameter in self.parameters:
            parameter.grad = None
        try:
            with ascent_run(self._modules, local=True), nullcontext() if ascent else descent_run(self._modules):
                loss = self._run()
        finally:
            if not first:
                after.restore()
        if first:
            self.loss = loss
        self.num_runs += 1
        found = [parameter.grad for parameter in self.parameters]
        if all(gradient is None for gradient in found):
            raise ValueError("no parameter of the optimizer has a gradient: the closure must call loss.backward()")
        self._used = [used or gradient is not None for used, gradient in zip(self._used, found, strict=True)]
        filled = [torch.zeros_like(p) if g is None else g for g, p in zip(found, self.parameters, strict=True)]
        return loss, vectors.copies(vectors.dense(filled))

    def average_(self, vector: Sequence[Tensor]) -> None:
        """Overwrites a vector made of this worker's gradients with its mean over the workers."""
        if self.layout.num_workers > 1:
            vectors.average_(vector, self.layout.num_workers, self._workers)

    def scaled(self, value: Tensor) -> Tensor:
        """As it is: the closure unscales."""
        return value

    def add_to_gradients(self, vector: Sequence[Tensor]) -> None:
        """Adds to the share."""
        vectors.add_(self._share, vector)


class ClosureGroup(MGroup):
    """The examples of this worker's closure."""

    def __init__(self, step: ClosureStep) -> None:
        super().__init__(cast(Any, step), None, None, index=0, rho=step.rho)
        self._closure_step = step

    @torch.no_grad()
    def gradient(self, *, shared: bool = True, only: Sequence[int] | None = None) -> list[Tensor]:
        loss, gradient = self._closure_step.closure_gradient(ascent=True)
        self._note(loss)
        if only is not None:
            chosen = set(only)
            gradient = [g if index in chosen else torch.zeros_like(g) for index, g in enumerate(gradient)]
        return self._shared(gradient) if shared else gradient

    @torch.no_grad()
    def descend(
        self,
        scale: float | Tensor | Callable[[Tensor], Tensor] = 1.0,
        *,
        penalty: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        step = self._closure_step
        if penalty is not None:
            step.refuse("group.descend(penalty=...)")
        loss, gradient = step.closure_gradient(ascent=False)
        self._note(loss)
        self.contribute(gradient, scale(self.losses[-1]) if callable(scale) else scale)

    def hessian_vector_product(self, vector: list[Tensor]) -> list[Tensor]:
        self._closure_step.refuse("group.hessian_vector_product")

    def forward(self) -> Any:
        self._closure_step.refuse("group.forward")

    def forward_at(self, weights: Sequence[Tensor]) -> Tensor:
        self._closure_step.refuse("group.forward_at")

    def example_losses(self) -> Tensor:
        self._closure_step.refuse("group.example_losses")

    def descend_on_largest(self, values: Tensor, share: float) -> None:
        self._closure_step.refuse("group.descend_on_largest")

    def observe(self, name: str, value: Tensor) -> None:
        """There are no metrics."""

    def _note(self, loss: Any) -> None:
        device = self._closure_step.device
        self.losses.append(loss.detach() if isinstance(loss, Tensor) else torch.as_tensor(loss, device=device))
