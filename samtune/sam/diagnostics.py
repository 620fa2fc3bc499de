"""Is SAM doing anything? Means over an epoch, collected on the device and read once at its end."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from samtune.sam import parts, vectors

if TYPE_CHECKING:
    from samtune.sam.m_group import MGroup

SAMPLING_INTERVAL = 16  # steps; what needs a further look at all weights is measured on one step of so many
MAX_COORDINATES = 2**16  # at which ε̂ is compared between m-groups, and with the rounding of w
LOST_SHARE_WARNING = 0.1
NEGLIGIBLE = 1e-3
"""Entries of ε̂ below this share of its root mean square make together less than this share of its norm, and no larger
rho would help them: F-SAM's are so small where a unit is dead, whose old gradients decay in its average."""

_FLUSH_AT = 256  # scalars kept apart before they are summed; adding each at once would cost a kernel


class Diagnostics:
    """The metrics of an epoch on one rank. Sums stay on the device until `reduce`."""

    def __init__(self, parameters: Sequence[Tensor], device: torch.device) -> None:
        self._parameters = parameters
        self._device = device
        size = sum(parameter.numel() for parameter in parameters)
        self._stride = max(1, -(-size // MAX_COORDINATES))
        self._warned = False
        self.reset()

    def reset(self) -> None:
        """Starts a new epoch."""
        self._pending: dict[str, list[Tensor]] = {}
        self._sums: dict[str, Tensor] = {}
        self._num_steps = 0
        self._ascent: list[Tensor] = []
        self._num_ascents = 0
        self._directions: Tensor | None = None  # sum of the m-groups' unit ε̂ at some coordinates; their number

    def state_dict(self) -> dict[str, Any]:
        """This rank's sums so far, between two steps."""
        return {
            "pending": {name: torch.stack(values) for name, values in self._pending.items() if values},
            "sums": dict(self._sums),
            "num_steps": self._num_steps,
            "directions": self._directions,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `state_dict`."""
        self.reset()
        self._pending = {name: list(values.to(self._device)) for name, values in state["pending"].items()}
        self._sums = {name: entry.to(self._device) for name, entry in state["sums"].items()}
        self._num_steps = state["num_steps"]
        self._directions = None if state["directions"] is None else state["directions"].to(self._device)

    # -- during a step -----------------------------------------------------------------------------------------------

    @property
    def looks_at_perturbations(self) -> bool:
        """Whether the present step is one of those at which all of ε̂ is looked at."""
        return self._num_steps % SAMPLING_INTERVAL == 0

    def add(self, name: str, value: Tensor) -> None:
        """Adds a scalar to a mean; a value that is not finite is left out of it."""
        pending = self._pending.setdefault(name, [])
        pending.append(value.detach())
        if len(pending) == _FLUSH_AT:
            self._flush(name)

    def add_forward(self, outputs: Any, targets: Any, loss: Tensor) -> None:
        """Loss and, for a classification, accuracy of a group's first forward (at w, but for methods of one pass)."""
        self.add("train_loss", loss)
        if (correct := accuracy(outputs, targets)) is not None:
            self.add("train_accuracy", correct)

    @torch.no_grad()
    def add_group(
        self, group: MGroup, sharpness: Tensor | None, weights: Sequence[Tensor], *, p: float, counts: bool
    ) -> None:
        """What is known of an m-group when its rule has run.

        Args:
            weights: w.
            p: the norm in which ε̂ is measured.
            counts: False on the workers beyond the first that share the group's ε̂.
        """
        if sharpness is not None:
            self.add("sharpness", sharpness)
        if group.gradient_norm is not None:
            self.add("gradient_norm", group.gradient_norm)
        if not self.looks_at_perturbations or group.perturbation is None:
            return
        if len(group.outputs) == 2:
            before, after = (accuracy(outputs, group.targets) for outputs in group.outputs)
            if before is not None and after is not None:
                self.add("error_sharpness", before - after)
        perturbation = group.perturbation
        length = vectors.norm(perturbation)
        self.add("perturbation_norm", length if p == 2 else vectors.norm(perturbation, p))
        unit = vectors.scaled(perturbation, vectors.safe_ratio(1.0, length))  # a copy: the rule may go on with its own
        if self._num_steps == 0:
            self._add_direction(unit, counts)
        self._add_relation_to_weights(perturbation, length, weights)
        if self._ascent:
            vectors.add_(self._ascent, unit)
        else:
            self._ascent = unit
        self._num_ascents += 1

    @torch.no_grad()
    def add_update(self, gradients: Sequence[Tensor | None], norm: Tensor | None, finite: Tensor) -> None:
        """The averaged gradient, when the step is over.

        Args:
            norm: its norm; None only in a step that does not look at perturbations.
        """
        if self._ascent:
            assert norm is not None
            pairs = [(u, g) for u, g in zip(self._ascent, gradients, strict=True) if g is not None]
            along = vectors.dot([u for u, _ in pairs], [g for _, g in pairs])
            self.add("gradient_cosine", vectors.safe_ratio(along / self._num_ascents, norm))
        self._ascent, self._num_ascents = [], 0
        self.add("skipped_steps", (~finite).float())
        self._num_steps += 1

    def _sampled(self, vector: Sequence[Tensor]) -> list[Tensor]:
        """Some coordinates of each tensor, evenly spaced; of a network of up to `MAX_COORDINATES` weights all."""
        return [tensor.flatten()[:: self._stride] for tensor in vector]

    def _add_direction(self, unit: Sequence[Tensor], counts: bool) -> None:
        sample = torch.cat(self._sampled(unit)).double()
        length = vectors.norm([sample])
        sample = parts.placed(sample * vectors.safe_ratio(1.0, length), counts)
        entry = torch.cat([sample, (length > 0).double().reshape(1) * float(counts)])
        self._directions = entry if self._directions is None else self._directions + entry

    def _add_relation_to_weights(
        self, perturbation: Sequence[Tensor], length: Tensor, weights: Sequence[Tensor]
    ) -> None:
        self.add("relative_perturbation", vectors.safe_ratio(length, vectors.norm(weights)))
        negligible = length * (NEGLIGIBLE / math.sqrt(max(1, parts.num_entries(weights))))
        weights, perturbation = self._sampled(weights), self._sampled(perturbation)
        matters = [part.abs() > negligible.to(part.device) for part in perturbation]
        moved = vectors.total(weights, perturbation)
        lost = [one & (new == old) for one, new, old in zip(matters, moved, weights, strict=True)]
        self.add("lost_perturbation", vectors.count_nonzero(lost) / vectors.count_nonzero(matters).clamp(min=1))

    # -- at the end of an epoch --------------------------------------------------------------------------------------

    def reduce(self, num_workers: int) -> dict[str, float]:
        """The means over the epoch and all workers, the same on every rank; then resets. Collective.

        A rule may measure something in some groups alone, so that one rank knows names that another does not.
        """
        for name in list(self._pending):
            self._flush(name)
        if num_workers > 1:
            self._agree(num_workers)
        names = sorted(self._sums)
        num_steps = self._num_steps
        table = [self._sums[name] for name in names]
        if self._directions is not None:
            table.append(self._directions)
        has_directions = self._directions is not None
        self.reset()
        if not table:
            return {}
        flat = torch.cat(table)
        if num_workers > 1:
            dist.all_reduce(flat)
        head = flat[: 2 * len(names)].tolist()
        metrics = {
            name: total / count if count else math.nan
            for name, total, count in zip(names, head[::2], head[1::2], strict=True)
        }
        metrics["skipped_steps"] = metrics.get("skipped_steps", 0.0) * num_steps
        if has_directions:
            groups = float(flat[-1])
            if groups > 1:
                squared = float(torch.linalg.vector_norm(flat[2 * len(names) : -1])) ** 2
                metrics["perturbation_cosine"] = (squared - groups) / (groups * (groups - 1))
        self._warn(metrics)
        return metrics

    def _agree(self, num_workers: int) -> None:
        """Gives this rank a sum of nothing for whatever only other ranks have measured."""
        size = 0 if self._directions is None else len(self._directions)
        found: list[Any] = [None] * num_workers
        dist.all_gather_object(found, (sorted(self._sums), size))
        for names, _ in found:
            for name in names:
                if name not in self._sums:
                    self._sums[name] = torch.zeros(2, dtype=torch.float64, device=self._device)
        size = max(size for _, size in found)
        if size and self._directions is None:
            self._directions = torch.zeros(size, dtype=torch.float64, device=self._device)

    def _flush(self, name: str) -> None:
        pending = self._pending.pop(name, [])
        if pending:
            entry = _sum_and_count(torch.stack([value.to(self._device) for value in pending]))
            self._sums[name] = self._sums[name] + entry if name in self._sums else entry

    def _warn(self, metrics: dict[str, float]) -> None:
        share = metrics.get("lost_perturbation", 0.0)
        if share > LOST_SHARE_WARNING and not self._warned:
            self._warned = True
            warnings.warn(
                f"rounding loses the perturbation of {share:.0%} of the weights: rho is too small for their dtype "
                f"(w + ε̂ == w)",
                stacklevel=3,
            )


def merged_state(states: Sequence[dict[str, Any]], chosen: Sequence[int], weight: float) -> dict[str, Any]:
    """The sums of some of the ranks as those of one; of no rank, nothing but the number of steps.

    What a worker notes once a step, rather than once a forward, then weighs a little more or less than the epoch's
    later steps: `gradient_cosine`, and what methods that perturb once a step note.

    Args:
        states: of `Diagnostics.state_dict`, of all ranks.
        chosen: which of them.
        weight: forwards of a step in the new layout, per forward in theirs.
    """
    sums: dict[str, Tensor] = {}
    parts = [states[index] for index in chosen]
    for part in parts:
        pending = {name: _sum_and_count(values) for name, values in part["pending"].items()}
        for name, entry in [*part["sums"].items(), *pending.items()]:
            sums[name] = sums[name] + weight * entry if name in sums else weight * entry
    directions = [part["directions"] for part in parts if part["directions"] is not None]
    return {
        "pending": {},
        "sums": sums,
        "num_steps": states[0]["num_steps"],
        "directions": torch.stack(directions).sum(dim=0) if directions else None,
    }


def _sum_and_count(values: Tensor) -> Tensor:
    """Of the finite ones; float64 [2]."""
    values = values.double()
    finite = torch.isfinite(values)
    return torch.stack([torch.where(finite, values, 0.0).sum(), finite.double().sum()])


def accuracy(outputs: Any, targets: Any) -> Tensor | None:
    """Share of the examples whose largest output is their class; None where the task is no classification."""
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
        return None
    outputs = outputs.detach()
    if outputs.ndim == 2 and targets.shape == outputs.shape:  # class probabilities
        targets = targets.argmax(dim=1)
    if outputs.ndim == 2 and targets.ndim == 1 and not targets.is_floating_point():
        correct: Tensor = (outputs.argmax(dim=1) == targets).float().mean()
        return correct
    return None
