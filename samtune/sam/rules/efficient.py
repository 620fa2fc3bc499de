"""Variants that spend fewer passes: AE-SAM chooses its steps, ESAM weights and examples, MESA follows a mean of w."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from samtune.sam import vectors
from samtune.sam.rules.base import Rule
from samtune.sam.rules.sam import SAMRule

if TYPE_CHECKING:
    from samtune.sam.m_group import MGroup
    from samtune.sam.train_step import TrainStep


class AESAMRule(SAMRule):
    """AE-SAM (Jiang et al., ICLR 2023): SAM's share where ‖g‖² >= μ_t + c_t·σ_t, else g alone.

    μ_t = δ·μ_(t-1) + (1 - δ)·‖g_t‖², σ_t² = δ·σ_(t-1)² + (1 - δ)·(‖g_t‖² - μ_t)², and c_t goes linearly from
    `threshold_start` (the paper's λ₂) to `threshold_end` (λ₁) over the training. The first gradient is μ's first value,
    at σ = 0, so that the first step is SAM's.

    With several m-groups each decides by its own gradient: with μ and σ as they would be after it; what is kept is the
    mean over the groups' ‖g_S‖² and (‖g_S‖² - μ_t)². 1 pass for a group that does not look for sharpness, 2 for one
    that does. The decision waits for the device.

    No code of the authors was found. The formulas are those of arXiv 2304.14647 as github.com/junaidaliop/zij
    (docs/math/aesam.md) restates them; that leaves the first values of μ and σ open, so they are a choice of this one.

    Args:
        threshold_start, threshold_end: c at the beginning and the end of training.
        decay: δ.
    """

    name = "aesam"

    def __init__(
        self,
        parameters: Sequence[Tensor],
        seed: int,
        *,
        threshold_start: float = 1.0,
        threshold_end: float = -1.0,
        decay: float = 0.9,
    ) -> None:
        super().__init__(parameters, seed)
        self.threshold_start, self.threshold_end, self.decay = threshold_start, threshold_end, decay
        self.ends_in_backward = False
        device = self.parameters[0].device if self.parameters else torch.device("cpu")
        wide = torch.float32 if device.type == "mps" else torch.float64
        self._moments = torch.zeros(3, dtype=wide, device=device)  # μ, σ², and 1 once they have values
        self._squares: list[Tensor] = []  # ‖g_S‖² of this worker's groups in this step
        self._extra = 0.0  # passes of this worker's second gradients in this step

    def __call__(self, group: MGroup) -> None:
        gradient = group.gradient()
        group.gradient_norm = vectors.norm(gradient)
        square = group.gradient_norm.to(self._moments) ** 2
        self._squares.append(square)
        moments = self._after(square.reshape(1))
        share = self.threshold_start + (self.threshold_end - self.threshold_start) * group.progress
        if not bool(square >= moments[0] + share * moments[1].sqrt()):
            group.contribute(gradient)
            return
        ascent = self.limit(gradient)
        group.perturb(vectors.scaled(ascent, vectors.safe_ratio(group.rho, vectors.norm(ascent))))
        group.contribute(group.gradient())
        self._extra += 1.0 / group.num_forwards

    def _after(self, squares: Tensor) -> Tensor:
        """The moments after gradients with these squared norms."""
        old, new = self._moments, squares.mean()
        mean = torch.where(old[2] > 0, self.decay * old[0] + (1.0 - self.decay) * new, new)
        spread = ((squares - mean) ** 2).mean()
        variance = torch.where(old[2] > 0, self.decay * old[1] + (1.0 - self.decay) * spread, 0.0 * spread)
        return torch.stack([mean, variance, torch.ones_like(mean)])

    def finish(self, step: TrainStep, gradients: Sequence[Tensor | None]) -> None:
        squares, extra = torch.stack(self._squares), self._extra
        self._squares, self._extra = [], 0.0
        if (workers := step.layout.num_workers) > 1:
            table = squares.new_zeros(workers, len(squares) + 1)  # each rank its row
            table[step.layout.rank] = torch.cat([squares, squares.new_tensor([extra])])
            dist.all_reduce(table.view(-1))
            squares = table[:, :-1].flatten()
            # The ranks' groups decide differently; all report what the step cost on average.
            step.count_pass((float(table[:, -1].mean()) - extra) * step.num_forwards)
        # A step that is going to be skipped must leave nothing behind.
        descent = vectors.norm([gradient for gradient in gradients if gradient is not None])
        finite = torch.isfinite(squares).all() & torch.isfinite(descent).to(squares.device)
        self._moments = torch.where(finite, self._after(squares), self._moments)

    def state_dict(self) -> dict[str, Any]:
        return {"moments": self._moments.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._moments = state["moments"].to(self._moments)


class ESAMRule(SAMRule):
    """ESAM (Du et al., ICLR 2022): a part of the weights is perturbed, and a part of the examples descends.

    Stochastic weight perturbation: each step draws which parameters (whole tensors) are perturbed, each with
    probability β; ε̂ = rho·g/(β·‖g‖) of these. Data selection: the share is the mean of ∇L(w + ε̂) over those examples
    alone whose loss rose most, a share γ of the m-group. Both as in the authors' code
    (github.com/dydjw9/Efficient_SAM), which leaves out one example more: it takes those above the last one's rise.

    1 pass at w, counted whole, though the weights that are not perturbed need no gradient there; with γ < 1 a forward
    at w + ε̂ (a third of a pass) and γ passes, else 1.

    Args:
        beta: β.
        gamma: γ.
    """

    name = "esam"

    def __init__(self, parameters: Sequence[Tensor], seed: int, *, beta: float = 0.6, gamma: float = 0.5) -> None:
        super().__init__(parameters, seed)
        self.beta, self.gamma = beta, gamma

    def __call__(self, group: MGroup) -> None:
        candidates = range(len(self.parameters)) if self.perturbed is None else self.perturbed
        draws = torch.rand(len(candidates), generator=group.host_generator("esam"), dtype=torch.float64).tolist()
        chosen = [index for index, draw in zip(candidates, draws, strict=True) if draw < self.beta]
        gradient = group.gradient(only=chosen)
        before = group.example_losses() if self.gamma < 1 else None
        group.gradient_norm = vectors.dual_norm_(gradient, group.rho / self.beta)
        group.perturb(gradient)
        if before is None:
            group.descend()
            return
        group.forward()
        group.descend_on_largest(group.example_losses() - before, self.gamma)

    def sharpness(self, losses: Sequence[Tensor]) -> Tensor | None:
        """L(w + ε̂) - L(w) of all examples of the group."""
        return losses[1] - losses[0]


class MESARule(Rule):
    """MESA (Du et al., NeurIPS 2022, "Sharpness-Aware Training for Free"): L(w) + λ·T²·mean KL(p_v ‖ p_w).

    p_v = softmax(outputs at v / T) and p_w likewise at w; v_t = β·v_(t-1) + (1 - β)·w_t is the exponential mean of the
    weights and takes no gradient. λ is the group's rho: 0 is the base optimizer, and schedules of rho are schedules of
    λ. Where `perturb` chooses parameters, v is w for the others. v is w at the method's first step; with `start` that
    is where the paper's trajectory loss begins too. 1 pass and a forward, a third of a pass. For classification:
    outputs are [b, classes].

    The authors (github.com/AngusDujw/SAF) evaluate v with means of BatchNorm's running statistics; here v sees the
    batch's statistics and dropout masks, as w does. SAF, which keeps the outputs of earlier epochs for each example
    instead of v, is not part of it: a step does not know which examples it has (`samtune docs methods` says more).

    Args:
        temperature: T.
        decay: β.
    """

    name = "mesa"
    state_vectors = ("mean",)

    def __init__(
        self, parameters: Sequence[Tensor], seed: int, *, temperature: float = 5.0, decay: float = 0.9998
    ) -> None:
        super().__init__(parameters, seed)
        self.temperature, self.decay = temperature, decay
        self._mean: list[Tensor] = []
        self._num_updates = 0  # method steps whose w is in the mean

    def __call__(self, group: MGroup) -> None:
        if not self._mean:
            self._mean = [parameter.detach().clone() for parameter in self.parameters]
        if self._num_updates == group.num_method_steps:
            vectors.move_towards_(self._mean, [p.detach() for p in self.parameters], 1.0 - self.decay)
            self._num_updates += 1
        chosen = range(len(self.parameters)) if self.perturbed is None else self.perturbed
        mean = [
            m if index in chosen else p for index, (m, p) in enumerate(zip(self._mean, self.parameters, strict=True))
        ]
        target = torch.softmax(_wide(group.forward_at(mean)) / self.temperature, dim=-1)

        def trajectory_loss(outputs: Tensor) -> Tensor:
            """Has the gradient of λ·T²·KL, but not its value: by the logits it is p_w - p_v, exactly 0 at w = v."""
            logits = _wide(outputs) / self.temperature
            slope = torch.softmax(logits.detach(), dim=-1) - target
            return group.rho * self.temperature**2 * (slope * logits).sum(dim=-1).mean()

        group.descend(penalty=trajectory_loss)

    def state_dict(self) -> dict[str, Any]:
        return {"mean": [tensor.clone() for tensor in self._mean], "num_updates": self._num_updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._mean = [tensor.to(p) for tensor, p in zip(state["mean"], self.parameters, strict=False)]
        self._num_updates = state["num_updates"]


def _wide(tensor: Tensor) -> Tensor:
    """At least 32 bits."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
