"""A model at a set of weights per m-group: forward and backward of all groups in one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules.batchnorm import _NormBase

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class StackedModel:
    """Runs a model over several m-groups at once with `torch.func.vmap`, which gives each group weights of its own.

    Exact for whatever treats each group by itself. What vmap refuses raises: random numbers (dropout), control flow
    that depends on the data, operations without a batching rule. What it does not refuse but does otherwise, such as a
    counter that is to see each group, has to be found by comparison.

    Args:
        parameters: those whose values differ between the groups.
    """

    def __init__(self, model: nn.Module, loss_fn: Callable[[Any, Any], Tensor], parameters: Sequence[Tensor]) -> None:
        self._model, self._loss_fn = model, loss_fn
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._names = [names.get(id(parameter), "") for parameter in parameters]
        self._layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, _NormBase)]

    @property
    def is_plain(self) -> bool:
        """Whether the model has nothing that is known to fit no stacked pass.

        Hooks would see stacked tensors, compiled and scripted code cannot be mapped, a SyncBatchNorm communicates,
        and layers with `true_gradient` draw random numbers.
        """
        return all(self._names) and not any(
            isinstance(module, nn.SyncBatchNorm | torch.jit.ScriptModule)
            or hasattr(module, "true_gradient")
            or getattr(module, "_compiled_call_impl", None) is not None
            or any(
                getattr(module, hooks)
                for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
            )
            for module in self._model.modules()
        )

    def forward(
        self, weights: Sequence[Tensor], inputs: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The mean loss of each of K groups [K], the outputs [K, m, ...] and what `keep_statistics` takes.

        Args:
            weights: [K, ...] for each parameter.
            inputs, targets: [K, m, ...].
        """
        statistics = {
            name: buffer.expand(len(inputs), *buffer.shape).clone() for name, buffer in self._statistics().items()
        }

        def of_group(
            weights: list[Tensor], statistics: dict[str, Tensor], inputs: Tensor, targets: Tensor
        ) -> tuple[Tensor, Tensor]:
            state = (dict(zip(self._names, weights, strict=True)), statistics)
            outputs: Tensor = functional_call(self._model, state, (inputs,))
            if not isinstance(outputs, Tensor):
                raise TypeError(f"a stacked pass needs a network that returns a tensor (got {type(outputs).__name__})")
            return self._loss_fn(outputs, targets), outputs

        losses, outputs = vmap(of_group)(list(weights), statistics, inputs, targets)
        return losses, outputs, statistics

    @torch.no_grad()
    def keep_statistics(self, statistics: dict[str, Tensor]) -> None:
        """Sets running statistics to the mean over the groups, and counts each group's batch."""
        for name, buffer in self._statistics().items():
            new = statistics[name]
            if buffer.is_floating_point():
                buffer.copy_(new.mean(dim=0))
            else:
                buffer.add_((new - buffer).sum(dim=0))

    def _statistics(self) -> dict[str, Tensor]:
        return {
            f"{prefix}.{name}" if prefix else name: buffer
            for prefix, layer in self._layers
            for name in _STATISTICS
            if isinstance(buffer := getattr(layer, name), Tensor)
        }
