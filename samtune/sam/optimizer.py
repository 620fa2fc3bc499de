"""SAM as a torch optimizer, for training loops of one's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from samtune.sam import vectors
from samtune.sam.closure_hooks import LocalGradients, ascent_run, descent_run
from samtune.sam.conditional_step import step_if
from samtune.sam.randomness import ModelNoise
from samtune.sam.rules.sam import adaptive_perturbation
from samtune.sam.weights import Weights


class SAM(Optimizer):
    """Sharpness-Aware Minimization (Foret et al., ICLR 2021) around any torch optimizer.

        optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.05, lr=0.1, momentum=0.9)

        def closure():
            optimizer.zero_grad()
            loss = loss_fn(model(inputs), targets)
            loss.backward()
            return loss

        loss = optimizer.step(closure)

    The closure runs twice: at w, and at the perturbed w + ε̂ with the same random numbers (dropout) and without a second
    update of BatchNorm's running statistics. Then w is restored bit for bit and the base optimizer takes its step,
    unless a gradient was not finite. Parameters keep their storage.

    Under DistributedDataParallel the first run's gradients stay on their worker, so that each worker computes its own
    ε̂ (m-sharpness), and only the second run's are averaged: no `no_sync` is needed.

    The parameter groups and the state are the base optimizer's own, so that learning-rate schedulers work and
    `state_dict` holds everything; `rho` is in the groups too and may be changed between steps.

    Args:
        params: parameters or groups of them; a group may have its own `rho`.
        base_optimizer: class of the optimizer that takes the step, e.g. torch.optim.SGD.
        rho: radius of the neighbourhood.
        p: the norm that bounds ε̂, from 1 to infinity (with `adaptive`: 2 or infinity).
        adaptive: ASAM (Kwon et al., ICML 2021): the neighbourhood scales with |w| + eta.
        eta: see `adaptive`.
        m: `worker`, or `global` for one ε̂ of the gradient averaged over all workers.
        base_options: arguments of the base optimizer, e.g. lr, momentum, weight_decay.

    Raises:
        ValueError: rho, p or eta is out of range.
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
        **base_options: Any,
    ) -> None:
        if not 0 <= rho < math.inf:
            raise ValueError(f"rho must be at least 0 and finite (got {rho})")
        if not p >= 1 or (adaptive and p not in (2, math.inf)):
            raise ValueError(f"p must lie in [1, inf], with adaptive it must be 2 or inf (got {p})")
        if not eta >= 0:
            raise ValueError(f"eta must be at least 0 (got {eta})")
        if m not in ("worker", "global"):
            raise ValueError(f"m must be worker or global (got {m!r})")
        self._p, self._adaptive, self._eta, self._m = float(p), adaptive, eta, m
        super().__init__(params, {"rho": rho})
        self.base_optimizer = base_optimizer(self.param_groups, **base_options)
        self._share_with_base()
        self._weights = Weights(self._parameters())
        self._local = LocalGradients(self._parameters())

    # -- the step ----------------------------------------------------------------------------------------------------

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step. The closure zeroes the gradients, computes the loss, calls backward and returns the loss.

        Returns:
            The loss at w.
        """
        if closure is None:
            raise ValueError("SAM.step needs a closure that zeroes the gradients, calls backward and returns the loss")
        run = torch.enable_grad()(closure)
        noise = ModelNoise(self._device())
        before = noise.state()
        with ascent_run(local=self._m == "worker"), self._local.recording(False):
            loss = run()
        self._perturb([p.grad for p in self._weights.parameters])
        try:
            noise.set_state(before)
            with descent_run(), self._local.recording(False):
                run()
        finally:
            self._weights.restore()
        self._take_step()
        return loss

    def first_step(self, zero_grad: bool = False) -> None:
        """After a backward at w: moves to w + ε̂. For loops written for davda54/sam.

        Under DistributedDataParallel this worker's own gradient is used, though the backward has averaged it (which
        `step` avoids). BatchNorm and dropout are left to the caller, whom `step` relieves of both.
        """
        if self._weights.moved:
            raise RuntimeError("first_step was called twice without second_step")
        gradients = [p.grad for p in self._weights.parameters]
        self._perturb(self._local.take(gradients) if self._m == "worker" else gradients)
        if zero_grad:
            self.zero_grad()

    def second_step(self, zero_grad: bool = False) -> None:
        """After a backward at w + ε̂: restores w and takes the base optimizer's step."""
        self._weights.restore()
        self._local.clear()
        self._take_step()
        self._opt_called = True  # what a learning-rate scheduler looks at
        if zero_grad:
            self.zero_grad()

    def zero_grad(self, set_to_none: bool = True) -> None:
        self._local.clear()
        super().zero_grad(set_to_none)

    # -- state -------------------------------------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        base: Optimizer | None = getattr(self, "base_optimizer", None)
        if base is None:  # while being constructed
            super().add_param_group(param_group)
            return
        param_group.setdefault("rho", self.defaults["rho"])
        base.add_param_group(param_group)
        self._weights = Weights(self._parameters())
        self._local = LocalGradients(self._parameters())

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's state and all groups with their rho."""
        return self.base_optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from `state_dict`."""
        self.base_optimizer.load_state_dict(state_dict)
        self._share_with_base()

    def _share_with_base(self) -> None:
        self.param_groups = self.base_optimizer.param_groups
        self.state = self.base_optimizer.state
        self.defaults.update(self.base_optimizer.defaults)

    # -- internals ---------------------------------------------------------------------------------------------------

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _device(self) -> torch.device:
        parameters = self._parameters()
        return parameters[0].device if parameters else torch.device("cpu")

    @torch.no_grad()
    def _perturb(self, gradients: list[Tensor | None]) -> None:
        """To w + ε̂, each group scaled by its rho; parameters without a gradient stay."""
        self._weights.forget()
        if all(group["rho"] == 0 for group in self.param_groups):
            return
        used = [i for i, gradient in enumerate(gradients) if gradient is not None]
        gradient = [cast(Tensor, gradients[i]) for i in used]
        if self._adaptive:
            parameters = [self._weights.parameters[i] for i in used]
            length = vectors.norm(gradient)
            unit = adaptive_perturbation(parameters, gradient, length, 1.0, p=self._p, eta=self._eta)
        else:
            unit = [tensor.clone() for tensor in gradient]
            vectors.dual_norm_(unit, 1.0, self._p)
        radii = [group["rho"] for group in self.param_groups for _ in group["params"]]
        if unit:
            vectors.scale_each_(unit, [radii[i] for i in used])
        places = dict(zip(used, unit, strict=True))
        zeros = [torch.zeros_like(p) if i not in places else places[i] for i, p in enumerate(self._weights.parameters)]
        self._weights.perturb(zeros)

    @torch.no_grad()
    def _take_step(self) -> None:
        gradients = [p.grad for p in self._parameters() if p.grad is not None]
        step_if(torch.isfinite(vectors.norm(gradients)), self.base_optimizer)
