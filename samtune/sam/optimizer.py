"""SAM as a torch optimizer, for your own training loop."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from samtune.sam import parts, vectors
from samtune.sam.closure_hooks import ascent_run, descent_run, refusing_scaled_gradients
from samtune.sam.closure_rule import ClosureStep
from samtune.sam.closure_scope import ClosureScope, key_of
from samtune.sam.conditional_step import step_if
from samtune.sam.local_gradients import LocalGradients
from samtune.sam.method import checked_options
from samtune.sam.optimizer_options import Ascent, Occasions, check_arguments, check_group, check_rho, needs_closure
from samtune.sam.randomness import ModelNoise
from samtune.sam.rules.base import Rule
from samtune.sam.running_state import RunningState, SavedState
from samtune.sam.shards import local
from samtune.sam.weights import Weights
from samtune.sam.where import compile_pattern, perturbed_among

_COUNTS = ("sam_steps", "sam_passes")


class SAM(Optimizer):
    """Sharpness-Aware Minimization (Foret et al., ICLR 2021) around any torch optimizer.

        optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.05, lr=0.1, momentum=0.9)

        def closure():
            optimizer.zero_grad()
            loss = loss_fn(model(inputs), targets)
            loss.backward()
            return loss

        loss = optimizer.step(closure)

    The closure runs twice: at w, and at the perturbed w + ε̂ with the same random numbers (dropout). What layers update
    in their forward, such as BatchNorm's running statistics, is updated by the first run alone. Then w is restored bit
    for bit and the base optimizer takes its step, unless a gradient was not finite: then nothing changes. Parameters
    have their storage again then; on a CPU the run at w + ε̂ may use another. The modules are those that the closure
    reaches through its variables, and those that own a parameter; compiled ones are not recompiled.

    Under DistributedDataParallel the first run's gradients stay on their worker, so that each worker computes its own
    ε̂ (m-sharpness), and only the second run's are averaged: no `no_sync` is needed.

    A model that `fully_shard` (FSDP2) has sharded needs `m="global"`: its backward leaves one gradient, averaged over
    all workers, and none of a worker's own. Norms are those of the whole model.

    The parameter groups and the state are the base optimizer's own, so that learning-rate schedulers work and
    `state_dict` holds everything, and a state of the base optimizer alone can be loaded; `rho` is in the groups too and
    may be changed between steps, and so are the numbers of steps and passes so far, `sam_steps` and `sam_passes`. In a
    group with `maximize`, ε̂ descends.

    `every`, `start`, `stop` and `probability` limit SAM to some steps. The others are the base optimizer's, for which
    the closure runs once; so are those at which the `rho` of every group is 0, by a schedule of yours say.

    With a GradScaler (fp16) the closure unscales, and GradScaler.step is not used:

        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        scaler.update()

    Args:
        params: parameters or groups of them; a group may have its own `rho`.
        base_optimizer: class of the optimizer that takes the step, e.g. torch.optim.SGD. Weight decay and clipping
            are not part of ε̂, which is that of the loss's gradient alone. (google-research's code for SAM adds the
            gradient of its L2 penalty before the ascent, and clips before both.)
        rho: radius of the neighbourhood.
        p: the norm that bounds ε̂, from 1 to infinity (with `adaptive`: 2 or infinity).
        adaptive: ASAM (Kwon et al., ICML 2021): the neighbourhood scales with |w| + eta.
        eta: see `adaptive`.
        m: `worker`, or `global` for one ε̂ of the gradient averaged over all workers.
        adaptive_biases: False is the rule of ASAM's authors' code: only parameters with `weight` in their name scale
            the neighbourhood, the others count as T = 1. `first_step` needs names for it: `model.named_parameters()`.
        every: SAM takes each k-th step, the first among them.
        start, stop: steps before the first that may be SAM's, and before the first that is not any more.
        probability: of each step that these leave to SAM, drawn from `seed` and the number of the step.
        seed: see `probability`; the same on all workers.
        perturb: `all`, `no_norm_bias` (all but the parameters of normalisation layers and biases), `only_norm` (SAM-ON)
            or a regular expression that is searched in the parameters' names, as their model has them. The other
            parameters keep ε̂ = 0 and do not enter its norm.
        rule: a subclass of `Rule`, a method of your own, in the place of SAM's. `step` runs the closure for each
            gradient that it asks for; `p`, `adaptive` and `eta` are not used. What needs the network's outputs or
            epochs is refused: that takes `TrainStep`. Its state is in `state_dict`, under "rule".
        rule_options: keyword arguments of the rule.
        base_options: arguments of the base optimizer, e.g. lr, momentum, weight_decay.

    Raises:
        ValueError: an argument is out of range, a group has an option that all groups share, the parameters are
            complex or sharded otherwise than by `fully_shard` with `m="global"`, or the base optimizer needs a closure.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base_optimizer: Callable[..., Optimizer],
        rho: float = 0.05,
        p: float = 2.0,
        adaptive: bool = False,
        eta: float = 0.01,
        m: Literal["worker", "global"] = "worker",
        adaptive_biases: bool = True,
        *,
        every: int = 1,
        start: int = 0,
        stop: int | None = None,
        probability: float = 1.0,
        seed: int = 0,
        perturb: str = "all",
        rule: type[Rule] | None = None,
        rule_options: Mapping[str, Any] | None = None,
        **base_options: Any,
    ) -> None:
        check_rho(rho)
        self._ascent = Ascent(float(p), adaptive, eta, m, adaptive_biases)
        self._occasions = Occasions(every, start, stop, probability, seed)
        compile_pattern(perturb)
        self._perturb_which = perturb
        check_arguments(params, base_optimizer)
        super().__init__(params, {"rho": rho})
        for group in self.param_groups:
            check_group(group)
        self.base_optimizer = base_optimizer(self.param_groups, **base_options)
        if needs_closure(self.base_optimizer):
            raise ValueError(
                f"base_optimizer must take a step without a closure ({type(self.base_optimizer).__name__} needs one)"
            )
        self._share_with_base()
        self._begin()
        self._rule: Rule | None = None
        self._rule_steps = 0
        if rule is not None:
            if rule.begin_epoch is not Rule.begin_epoch:
                raise ValueError(f"the rule {rule.__qualname__} needs epochs (begin_epoch): train with TrainStep")
            if any(group.get("maximize") for group in self.param_groups):
                raise ValueError("a rule must minimise (maximize is True): negate the loss instead")
            if self._weights.shards is not None:
                raise ValueError(
                    "a rule of your own takes no sharded parameters (DTensor): use DistributedDataParallel"
                )
            self._rule = rule(self._weights.parameters, seed, **checked_options(rule, rule_options or {}))
            self._rule.check(self.base_optimizer)
        elif rule_options is not None:
            raise ValueError("rule_options needs a rule")

    def _begin(self) -> None:
        """What is known of the parameters and their modules, from scratch."""
        self._weights = Weights(self._parameters(), sharded=True)
        self._ascent.check_shards(self._weights.shards is not None)
        self._local = LocalGradients(self._weights.parameters if self._ascent.m == "worker" else [])
        self._local.watch()
        self._between_steps = False  # first_step was called, second_step was not
        self._accumulated: SavedState | None = None  # layers' running state before the first call of accumulate
        self._accumulated_passes = 0  # of each of its batches
        self._zeroed = False  # zero_grad was called in the closure that runs
        self._key: tuple[int, ...] | None = None
        self._perturbed: list[int] | None = None  # positions of the parameters, None: all
        self._modules: list[weakref.ref[nn.Module]] = []
        self._scalers: list[weakref.ref[torch.amp.GradScaler]] = []
        self._names: dict[int, str] = {
            id(parameter): name
            for group in self.param_groups
            for parameter, name in zip(group["params"], group.get("param_names", ()), strict=False)
        }

    # -- the step ----------------------------------------------------------------------------------------------------

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step. The closure zeroes the gradients, computes the loss, calls backward and returns the loss.

        Without a closure this is the base optimizer's step with the gradients that `accumulate` has made. Else only a
        gradient of 0 is accepted, by which torch.distributed.checkpoint makes the state.

        Returns:
            The loss at w.

        Raises:
            ValueError: no closure, or one that computes no gradient, leaves it scaled, or adds it to an earlier one.
            RuntimeError: `first_step` was called before, and `second_step` was not.
        """
        self._check_not_between("step")
        if closure is None:
            return self._step_at_zero_gradient() if self._accumulated is None else self._step_of_accumulated()
        run = torch.enable_grad()(closure)
        modules, scalers = self._scope(closure)
        state = RunningState(modules)
        before = state.save()
        if not self._is_sharp():
            with self._local.paused(), refusing_scaled_gradients(scalers, self):
                loss = run()
            self._check_gradients()
            self._take_step(before, passes=1)
            return loss
        if self._rule is not None:
            passes, loss = self._run_rule(self._rule, run, modules, scalers)
            self._take_step(before, passes=passes)
            self._rule_steps += 1
            return loss
        with self._local.paused(), refusing_scaled_gradients(scalers, self):
            loss = self._run_twice(lambda: self._run_from_zero(run), run, modules, state)
        self._check_gradients()
        self._take_step(before, passes=2)
        return loss

    def accumulate(self, closure: Callable[[], Any]) -> Any:
        """Adds the gradient at w + ε̂ to `.grad`, and leaves the weights at w; `step()` then takes the step.

        For loops that step elsewhere, or accumulate gradients over several batches: each call is an m-group with its
        own ε̂. The closure computes the loss, calls backward and returns the loss. It does not zero the gradients.

            for inputs, targets in micro_batches:
                optimizer.accumulate(lambda: backward(loss_fn(model(inputs), targets) / len(micro_batches)))
            optimizer.step()
            optimizer.zero_grad()

        Under DistributedDataParallel, ε̂ is this worker's own; call all but the last inside `model.no_sync()`, as usual.

        Returns:
            The loss at w.

        Raises:
            ValueError: the closure computes no gradient, leaves it scaled, or zeroes gradients.
            RuntimeError: `first_step` was called before, and `second_step` was not.
        """
        self._check_not_between("accumulate")
        self._check_no_rule("accumulate")
        run = torch.enable_grad()(closure)
        modules, scalers = self._scope(closure)
        state = RunningState(modules)
        before = state.save()
        earlier = [p.grad for p in self._weights.parameters]

        def from_nothing() -> Any:
            self._set_gradients([None] * len(earlier))
            return self._run_adding(run)

        def onto_earlier() -> Any:
            self._set_gradients(earlier)
            return self._run_adding(run)

        is_sharp = self._is_sharp()
        with self._local.paused(), refusing_scaled_gradients(scalers, self):
            if is_sharp:
                try:
                    loss = self._run_twice(from_nothing, onto_earlier, modules, state)
                except BaseException:  # whoever catches it, for want of memory say, still has those of before
                    self._set_gradients(earlier)
                    raise
            else:
                loss = self._run_adding(run)
        if self._accumulated is None:
            self._accumulated = before
            self._accumulated_passes = 0
        self._accumulated_passes = max(self._accumulated_passes, 2 if is_sharp else 1)
        return loss

    def first_step(self, zero_grad: bool = False) -> None:
        """After a backward at w: moves to w + ε̂. For loops written for davda54/sam.

        Under DistributedDataParallel this worker's own gradient is used, though the backward has averaged it (which
        `step` avoids). BatchNorm and dropout are left to the caller, whom `step` relieves of both.

        Raises:
            RuntimeError: called twice without `second_step`, the worker's own gradient is not known, or only some steps
                are SAM's.
        """
        self._check_no_rule("first_step")
        if not self._occasions.are_all:
            raise RuntimeError("every, start, stop and probability need step(closure), which runs the closure once")
        if self._between_steps:
            raise RuntimeError("first_step was called twice without second_step")
        self._check_gradients()
        gradients = self._local.take() if self._ascent.m == "worker" else [p.grad for p in self._weights.parameters]
        self._perturb(gradients)
        self._between_steps = True
        if zero_grad:
            self.zero_grad()

    def second_step(self, zero_grad: bool = False) -> None:
        """After a backward at w + ε̂: restores w and takes the base optimizer's step.

        Raises:
            RuntimeError: `first_step` was not called before.
        """
        if not self._between_steps:
            raise RuntimeError("second_step was called without first_step")
        self._weights.restore()
        self._between_steps = False
        self._local.clear()
        self._take_step(passes=2)
        self._opt_called = True  # what a learning-rate scheduler looks at
        if zero_grad:
            self.zero_grad()

    def zero_grad(self, set_to_none: bool = True) -> None:
        self._zeroed = True
        self._accumulated = None
        self._local.clear()
        self._local.watch()
        super().zero_grad(set_to_none)

    # -- state -------------------------------------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        base: Optimizer | None = getattr(self, "base_optimizer", None)
        if base is None:  # while being constructed
            super().add_param_group(param_group)
            return
        self._check_not_between("add_param_group")
        self._check_no_rule("add_param_group")
        param_group.setdefault("rho", self.defaults["rho"])
        check_group(param_group)
        for count in _COUNTS:
            param_group[count] = self._count(count)
        base.add_param_group(param_group)
        self._begin()

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's state and all groups with their rho."""
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        state = self.base_optimizer.state_dict()
        if self._rule is not None:
            state["rule"] = {"state": self._rule.state_dict(), "num_steps": self._rule_steps}
        for after in self._optimizer_state_dict_post_hooks.values():
            changed = after(self, state)
            state = state if changed is None else changed
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from `state_dict`, or from one of the base optimizer alone: then each group keeps its rho."""
        self._check_not_between("load_state_dict")
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            changed = before(self, state_dict)
            state_dict = state_dict if changed is None else changed
        radii = [group["rho"] for group in self.param_groups]
        self.base_optimizer.load_state_dict(state_dict)
        if self._rule is not None and "rule" in state_dict:
            self._rule.load_state_dict(state_dict["rule"]["state"])
            self._rule_steps = state_dict["rule"]["num_steps"]
        self._share_with_base()
        for group, rho in zip(self.param_groups, radii, strict=True):
            group.setdefault("rho", rho)
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles. The base optimizer goes with it, what is known of the modules does not."""
        self._check_not_between("a copy")
        own = ("_ascent", "_occasions", "_perturb_which", "base_optimizer", "_rule", "_rule_steps")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in own}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share_with_base()
        self._begin()

    def _share_with_base(self) -> None:
        self.param_groups = self.base_optimizer.param_groups
        self.state = self.base_optimizer.state
        self.defaults.update(self.base_optimizer.defaults)
        for group in self.param_groups:
            for count in _COUNTS:
                group.setdefault(count, 0)

    # -- internals ---------------------------------------------------------------------------------------------------

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _device(self) -> torch.device:
        parameters = self._parameters()
        return parameters[0].device if parameters else torch.device("cpu")

    def _scope(self, closure: Callable[[], Any]) -> tuple[list[nn.Module], list[torch.amp.GradScaler]]:
        """The modules and loss scalers that the closure works with; looked for when it names others than before."""
        key = key_of(closure)
        if key != self._key:
            scope = ClosureScope(closure, self._weights.parameters)
            self._key = key
            self._modules = [weakref.ref(module) for module in scope.modules]
            self._scalers = [weakref.ref(scaler) for scaler in scope.scalers]
            self._names |= scope.names
            self._perturbed = self._chosen(scope.modules)
        modules = [module for reference in self._modules if (module := reference()) is not None]
        return modules, [scaler for reference in self._scalers if (scaler := reference()) is not None]

    def _chosen(self, modules: Sequence[nn.Module]) -> list[int] | None:
        """Positions of the parameters that are perturbed; None: all."""
        return perturbed_among(self._names, modules, self._weights.parameters, self._perturb_which)

    def _is_sharp(self) -> bool:
        """Whether this step is SAM's. Where every rho is 0, w + ε̂ is w: the base optimizer's step, at one pass."""
        for group in self.param_groups:
            check_rho(group["rho"])
        moves = any(group["rho"] != 0 for group in self.param_groups)
        return moves and self._occasions.hold(self._count("sam_steps"))

    def _count(self, name: str) -> int:
        return max((int(group[name]) for group in self.param_groups), default=0)

    def _check_not_between(self, what: str) -> None:
        if self._between_steps:
            raise RuntimeError(f"{what} must not come between first_step and second_step: the weights are perturbed")

    def _check_gradients(self) -> None:
        parameters = self._weights.parameters
        if parameters and all(parameter.grad is None for parameter in parameters):
            raise ValueError("no parameter of the optimizer has a gradient: the closure must call loss.backward()")

    def _step_at_zero_gradient(self) -> None:
        gradients = [p.grad for p in self._weights.parameters if p.grad is not None]
        if not gradients or self._norm(gradients) != 0:
            raise ValueError("SAM.step needs a closure that zeroes the gradients, calls backward and returns the loss")
        self.base_optimizer.step()

    def _step_of_accumulated(self) -> None:
        before, self._accumulated = self._accumulated, None
        self._check_gradients()
        self._take_step(before, passes=self._accumulated_passes)

    def _norm(self, gradients: Sequence[Tensor]) -> Tensor:
        with parts.over_shards(self._weights.shards):
            return vectors.norm(local(gradients))

    def _set_gradients(self, gradients: Sequence[Tensor | None]) -> None:
        for parameter, gradient in zip(self._weights.parameters, gradients, strict=True):
            parameter.grad = gradient

    def _run_twice(
        self,
        at_w: Callable[[], Any],
        at_perturbed: Callable[[], Any],
        modules: Sequence[nn.Module],
        state: RunningState,
    ) -> Any:
        """Runs a closure at w and, with the same random numbers, at w + ε̂; then the weights are at w again.

        Layers keep what the first run has made of their running state.

        Returns:
            What the first run returns.
        """
        noise = ModelNoise(self._device())
        random = noise.state()
        with ascent_run(modules, local=self._ascent.m == "worker"):
            loss = at_w()
        after = state.save()
        self._check_gradients()
        self._perturb([p.grad for p in self._weights.parameters])
        try:
            noise.set_state(random)
            with descent_run(modules):
                at_perturbed()
        finally:
            self._weights.restore()
            after.restore()
        return loss

    def _run_rule(
        self,
        rule: Rule,
        run: Callable[[], Any],
        modules: Sequence[nn.Module],
        scalers: Sequence[torch.amp.GradScaler],
    ) -> tuple[int, Any]:
        """Leaves the rule's update direction in `.grad`; returns the runs of the closure and the loss at w."""
        rule.names = [self._names.get(id(p), "") for p in self._weights.parameters]
        rule.perturbed = self._perturbed
        self._weights.forget()
        counts = {"num_steps": self._count("sam_steps"), "num_method_steps": self._rule_steps}
        step = ClosureStep(rule, self._weights, self.base_optimizer, modules, run, m=self._ascent.m, **counts)
        with self._local.paused(), refusing_scaled_gradients(scalers, self):
            loss = step.take()
        return step.num_runs, loss

    def _check_no_rule(self, what: str) -> None:
        if self._rule is not None:
            raise RuntimeError(f"{what} cannot be used with a rule of your own: use step(closure)")

    def _run_adding(self, run: Callable[[], Any]) -> Any:
        """Runs the closure of `accumulate`.

        Raises:
            ValueError: it has zeroed the gradients.
        """
        self._zeroed = False
        loss = run()
        if self._zeroed:
            raise ValueError("the closure of accumulate must not zero the gradients: it adds to them")
        return loss

    def _run_from_zero(self, run: Callable[[], Any]) -> Any:
        """Runs the closure at w.

        Raises:
            ValueError: it has added its gradient to one that was there. So it would at w + ε̂ too: twice too much.
        """
        probe = next((p for p in self._weights.parameters if p.grad is not None), None)
        before = None if probe is None else (probe.grad, cast(Tensor, probe.grad)._version)
        self._zeroed = False
        loss = run()
        if before and probe is not None and not self._zeroed:
            gradient, version = before
            # A gradient that was set to zero in place has changed twice.
            if probe.grad is gradient and cast(Tensor, gradient)._version == version + 1:
                raise ValueError(
                    "the closure adds its gradient to an earlier one: it must call optimizer.zero_grad() first. To "
                    "accumulate gradients over several batches, use optimizer.accumulate"
                )
        return loss

    @torch.no_grad()
    def _perturb(self, gradients: list[Tensor | None]) -> None:
        """To w + ε̂, each group scaled by its rho; parameters without a gradient stay."""
        self._weights.forget()
        for group in self.param_groups:
            check_rho(group["rho"])
        if all(group["rho"] == 0 for group in self.param_groups):
            return
        if self._perturbed is None and self._perturb_which != "all":  # first_step: there is no closure to look into
            self._perturbed = self._chosen(ClosureScope(lambda: None, self._weights.parameters).modules)
        chosen = range(len(gradients)) if self._perturbed is None else self._perturbed
        used = [i for i in chosen if gradients[i] is not None]
        gradient = vectors.dense(local([cast(Tensor, gradients[i]) for i in used]))
        own = self._weights.parts
        names = [self._names.get(id(self._weights.parameters[i]), "weight") for i in used if self._ascent.adaptive]
        with parts.over_shards(self._weights.shards):
            unit, scale = self._ascent.unit([own[i] for i in used], gradient, names)
        radii = [-g["rho"] if g.get("maximize") else g["rho"] for g in self.param_groups for _ in g["params"]]
        if len(self.param_groups) == 1:
            scale = radii[0] if scale is None else radii[0] * scale
        else:
            unit = vectors.scaled(unit, 1.0 if scale is None else scale)
            vectors.scale_each_(unit, [radii[i] for i in used])
            scale = None
        self._weights.perturb(unit, scale, only=used)

    @torch.no_grad()
    def _take_step(self, before: SavedState | None = None, *, passes: int) -> None:
        gradients = [p.grad for p in self._parameters() if p.grad is not None]
        sharded = self._weights.shards is not None
        finite = torch.isfinite(self._norm(gradients)) if sharded else vectors.are_finite(gradients)
        step_if(finite, self.base_optimizer)
        for group in self.param_groups:
            group["sam_steps"] += 1
            group["sam_passes"] += passes
        torch.clear_autocast_cache()
        if before is not None:
            before.restore_unless(finite)
