"""What `SAM` does around a user's closure: it knows the parameters, not the model or its data-parallel wrapper."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.parallel import DistributedDataParallel


def _several_workers() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


@contextmanager
def gradients_stay_local() -> Iterator[None]:
    """Inside, DistributedDataParallel's forwards prepare no all-reduce (its `no_sync` must cover the forward)."""

    def disable(module: nn.Module) -> tuple[str, Any] | None:
        return ("require_backward_grad_sync", False) if isinstance(module, DistributedDataParallel) else None

    with _during_forward(disable):
        yield


@contextmanager
def true_gradient(on: bool) -> Iterator[None]:
    """Inside, modules with an attribute `true_gradient` (Shake-Shake, ShakeDrop) have it set: see `ModelNoise`."""
    with _during_forward(lambda module: ("true_gradient", on) if hasattr(module, "true_gradient") else None):
        yield


@contextmanager
def frozen_statistics() -> Iterator[None]:
    """Inside, normalisation layers in training normalise with their batch's statistics and keep their running ones."""

    def freeze(module: nn.Module) -> tuple[str, Any] | None:
        if isinstance(module, _NormBase) and module.training and module.track_running_stats:
            return "track_running_stats", False
        return None

    with _during_forward(freeze):
        yield


@contextmanager
def _during_forward(choose: Callable[[nn.Module], tuple[str, Any] | None]) -> Iterator[None]:
    """Inside, every module that `choose` gives an (attribute, value) for has that value while its forward runs.

    An optimizer does not know the model; the modules that the closure calls show up here.
    """
    changed: list[tuple[nn.Module, str, Any]] = []

    def before(module: nn.Module, inputs: Any) -> None:
        change = choose(module)
        if change is not None:
            name, value = change
            changed.append((module, name, getattr(module, name)))
            setattr(module, name, value)

    def after(module: nn.Module, inputs: Any, outputs: Any) -> None:
        if changed and changed[-1][0] is module:
            _, name, value = changed.pop()
            setattr(module, name, value)

    handles = [register_module_forward_pre_hook(before), register_module_forward_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module, name, value in reversed(changed):  # a forward raised
            setattr(module, name, value)


class LocalGradients:
    """This worker's own gradients, as they arrive at the parameters, before DistributedDataParallel averages them."""

    def __init__(self, parameters: list[Tensor]) -> None:
        self._index = {id(parameter): i for i, parameter in enumerate(parameters)}
        self._gradients: dict[int, Tensor] = {}
        self._recording = True
        this = weakref.ref(self)
        for index, parameter in enumerate(parameters):
            if parameter.requires_grad:
                parameter.register_hook(_recorder(this, index))  # type: ignore[no-untyped-call]

    def record(self, index: int, gradient: Tensor) -> None:
        """Adds a gradient that a backward has brought."""
        if self._recording and _several_workers():
            known = self._gradients.get(index)
            self._gradients[index] = gradient if known is None else known + gradient

    def take(self, averaged: list[Tensor | None]) -> list[Tensor | None]:
        """The gradients recorded since the last call; without other workers the given ones."""
        if not self._gradients:
            return averaged
        found = [self._gradients.get(index) for index in range(len(averaged))]
        self.clear()
        return found

    def clear(self) -> None:
        """Forgets them."""
        self._gradients.clear()

    @contextmanager
    def recording(self, on: bool) -> Iterator[None]:
        """Switches the recording."""
        self._recording, before = on, self._recording
        try:
            yield
        finally:
            self._recording = before


def _recorder(this: weakref.ref[LocalGradients], index: int) -> Callable[[Tensor], None]:
    def hook(gradient: Tensor) -> None:
        recorder = this()
        if recorder is not None:
            recorder.record(index, gradient)

    return hook
