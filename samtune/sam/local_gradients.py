"""This worker's own gradients under DistributedDataParallel, whose backward leaves only their mean over the workers."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def several_workers() -> bool:
    """Whether there is anybody to average with."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class LocalGradients:
    """Records what backwards add to `.grad`, before it is averaged.

    A gradient counts where it is accumulated into `.grad` (so not what `torch.autograd.grad` asks for), and as long as
    `.grad` is not reset. Where there is one worker only, nothing is recorded, nor hooked.

    Args:
        parameters: of the optimizer, trainable or not.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._parameters = list(parameters)
        self._record = _Record()
        self._hooked: set[int] = set()
        self._handles: list[Any] = []
        weakref.finalize(self, _remove, self._handles)

    def watch(self) -> None:
        """From now on backwards are recorded; for parameters that became trainable since, call it again."""
        if not several_workers():
            return
        for index, parameter in enumerate(self._parameters):
            if parameter.requires_grad and index not in self._hooked:
                self._hooked.add(index)
                arriving, accumulated = _arriving(self._record, index, parameter), _accumulated(self._record, index)
                self._handles += [
                    parameter.register_hook(arriving),  # type: ignore[no-untyped-call]
                    parameter.register_post_accumulate_grad_hook(accumulated),  # type: ignore[no-untyped-call]
                ]

    def take(self) -> list[Tensor | None]:
        """This worker's gradients since `.grad` was last reset; without other workers, those in `.grad`.

        Raises:
            RuntimeError: a backward went unrecorded.
        """
        averaged = [parameter.grad for parameter in self._parameters]
        if not several_workers():
            return averaged
        found = self._record.sums
        missing = sum(gradient is not None and index not in found for index, gradient in enumerate(averaged))
        if missing:
            self.watch()
            raise RuntimeError(
                f"first_step does not know this worker's own gradient of {missing} parameters, only the mean over all "
                "workers: call the optimizer's zero_grad() before the backward (after torch.distributed is initialised "
                "and after parameters are unfrozen), or use step(closure)"
            )
        gradients = [None if gradient is None else found[index] for index, gradient in enumerate(averaged)]
        self.clear()
        return gradients

    def clear(self) -> None:
        """Forgets them."""
        self._record.sums.clear()
        self._record.arrived.clear()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, nothing is recorded."""
        self._record.on = False
        try:
            yield
        finally:
            self._record.on = True


class _Record:
    """What the hooks fill. They do not hold the parameters, nor whoever reads it."""

    def __init__(self) -> None:
        self.on = True
        self.arrived: dict[int, Tensor] = {}
        self.sums: dict[int, Tensor] = {}


def _arriving(record: _Record, index: int, parameter: Tensor) -> Any:
    reference = weakref.ref(parameter)

    @torch.no_grad()
    def hook(gradient: Tensor) -> None:
        """Before the gradient is accumulated, or handed to whoever asked for it."""
        owner = reference()
        if not record.on or owner is None:
            return
        record.arrived[index] = gradient
        known = record.sums.get(index)
        if known is None:
            return
        if owner.grad is None:  # reset since
            del record.sums[index]
        elif not owner.grad.is_sparse:  # set to zero since? If not, this changes nothing
            record.sums[index] = torch.where(owner.grad.any(), known, torch.zeros_like(known))

    return hook


def _accumulated(record: _Record, index: int) -> Any:
    @torch.no_grad()
    def hook(parameter: Tensor) -> None:
        """After it was accumulated, and before DistributedDataParallel averages it."""
        gradient = record.arrived.pop(index, None)
        if record.on and gradient is not None:
            known = record.sums.get(index)
            record.sums[index] = gradient if known is None else known + gradient

    return hook


def _remove(handles: list[Any]) -> None:
    for handle in handles:
        handle.remove()
