"""Running statistics of normalisation layers over several m-groups of a step and several workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from samtune.sam import vectors


def averaged(ranks: list[Tensor | None]) -> Tensor | None:
    """The mean of `RunningStatistics.flat` of several workers; None where there are none.

    They are linear in what each worker has seen, so that the mean may be taken before the end of an epoch too.
    """
    flats = [flat for flat in ranks if flat is not None]
    return torch.stack(flats).mean(dim=0) if flats else None


class RunningStatistics:
    """Lets the running statistics of a model see every m-group of a step exactly once and with equal weight.

    A step over k groups moves a statistic r to `(1 - μ) r + μ · mean of the k groups' statistics`, whether the groups
    run one after another on one worker or on k workers whose statistics are averaged later: they do not depend on the
    number of workers.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = [layer for layer in model.modules() if isinstance(layer, _NormBase)]
        # Scripted layers are of another class; their momentum is a constant, but their statistics can be averaged.
        self._keepers = [layer for layer in model.modules() if isinstance(getattr(layer, "running_mean", None), Tensor)]

    @contextmanager
    def update(self, index: int, num_groups: int, together: int = 1) -> Iterator[None]:
        """The forwards inside update the statistics, as forward `index` of `num_groups` in this worker's step.

        Args:
            together: forwards from `index` on that are one, whose statistics are the mean of these.
        """
        if num_groups == 1:
            yield
            return
        momenta = [layer.momentum for layer in self._layers]
        for layer, momentum in zip(self._layers, momenta, strict=True):
            # Chosen so that in the end each of the groups weighs momentum / num_groups. None is torch's cumulative
            # mean, which weighs all forwards the same anyway.
            if momentum is not None:
                layer.momentum = momentum * together / (num_groups - momentum * (num_groups - together - index))
        try:
            yield
        finally:
            for layer, momentum in zip(self._layers, momenta, strict=True):
                layer.momentum = momentum

    def flat(self) -> Tensor | None:
        """A copy of all running statistics in one tensor; None if there are none."""
        buffers = self._buffers()
        return torch.cat([buffer.flatten() for buffer in buffers]) if buffers else None

    def load(self, flat: Tensor | None) -> None:
        """Goes back to the statistics in `flat`."""
        if flat is not None:
            self._assign(flat)

    def average(self, num_workers: int) -> None:
        """Averages the statistics over all workers. A collective: every rank calls it."""
        flat = self.flat()
        if num_workers > 1 and flat is not None:
            dist.all_reduce(flat)
            self._assign(flat / num_workers)

    def _buffers(self) -> list[Tensor]:
        return [getattr(layer, name) for layer in self._keepers for name in ("running_mean", "running_var")]

    def _assign(self, flat: Tensor) -> None:
        buffers = self._buffers()
        parts = torch.split(flat, [buffer.numel() for buffer in buffers])
        vectors.copy_(buffers, [part.view_as(buffer) for part, buffer in zip(parts, buffers, strict=True)])
