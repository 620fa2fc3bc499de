"""Metrics that are objects with a state over an evaluation, as those of torchmetrics: F1, AUROC, quantiles."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from samtune.config.training import TrainingConfig, metric_name
from samtune.errors import UsageError
from samtune.sam import tree
from samtune.user_code import resolve_function


def is_stateful(part: Any) -> bool:
    """Whether it is an object with `update`, `compute` and `reset`. No import of torchmetrics, which may be absent."""
    return all(callable(getattr(part, name, None)) for name in ("update", "compute", "reset"))


class StatefulMetrics:
    """Those of a configuration, for one evaluation after another.

    Each begins as a copy of the user's object, is updated batch by batch with the outputs (the `logits` of those that
    are no tensor) and the targets, and computes one number. torchmetrics gathers the states of all workers of the
    default process group when it computes.

    Raises:
        UsageError: a class was named instead of an object.
    """

    def __init__(self, config: TrainingConfig, device: torch.device) -> None:
        self._device = device
        self._given: dict[str, Any] = {}
        for path in config.metrics:
            part = resolve_function(path, "training.metrics") if ":" in path else None
            if not is_stateful(part):
                continue
            if isinstance(part, type):
                problem = f"{path} is a class: name an object of it that a module has at its top level"
                raise UsageError(f"training.metrics: {problem}")
            self._given[metric_name(path)] = part
        self._under_way: dict[str, Any] = {}

    def begin(self) -> None:
        """Before the first batch of an evaluation."""
        self._under_way = {name: copy.deepcopy(part) for name, part in self._given.items()}
        for metric in self._under_way.values():
            metric.reset()
            if hasattr(metric, "to"):
                metric.to(self._device)

    def update(self, outputs: Any, targets: Any) -> None:
        """With a batch of this worker's."""
        main = tree.main_output(outputs)
        if isinstance(main, Tensor) and isinstance(targets, Tensor) and main.numel() == targets.numel():
            main = main.reshape(targets.shape)  # [b, 1] beside [b], as for the losses by name
        for metric in self._under_way.values():
            metric.update(main, targets)

    def compute(self) -> dict[str, float]:
        """The numbers, the same on every rank. A collective.

        Raises:
            UsageError: one computes something else.
        """
        found = {}
        for name, metric in self._under_way.items():
            value = metric.compute()
            if not isinstance(value, float | int) and not (isinstance(value, Tensor) and value.numel() == 1):
                shape = f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
                raise UsageError(f"training.metrics: {name} must compute one number (it computed {shape})")
            found[name] = float(value)
        self._under_way = {}
        return found
