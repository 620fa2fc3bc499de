"""What `SAM` does around a user's closure: it knows the parameters, not the model or its data-parallel wrapper."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parallel import DistributedDataParallel


def _several_workers() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


@contextmanager
def ascent_run(*, local: bool) -> Iterator[None]:
    """Around the closure's run at w: shake modules use the true gradient (see `ModelNoise`).

    Args:
        local: DistributedDataParallel's forwards prepare no all-reduce (its `no_sync` must cover the forward).
    """

    def change(module: nn.Module) -> tuple[str, bool] | None:
        if isinstance(module, DistributedDataParallel) and local:
            return "require_backward_grad_sync", False
        return ("true_gradient", True) if hasattr(module, "true_gradient") else None

    with _changing_modules(change):
        yield


@contextmanager
def descent_run() -> Iterator[None]:
    """Around the closure's run at w + ε̂: running statistics stay, batch statistics normalise."""

    def change(module: nn.Module) -> tuple[str, bool] | None:
        if isinstance(module, _NormBase) and module.training:
            return "track_running_stats", False
        return ("true_gradient", False) if hasattr(module, "true_gradient") else None

    with _changing_modules(change):
        yield


@contextmanager
def _changing_modules(change: Callable[[nn.Module], tuple[str, bool] | None]) -> Iterator[None]:
    """Inside, a module for which `change` gives (attribute, value) has that value from its first forward on.

    An optimizer does not know the model; the modules that the closure calls show up in a hook.
    """
    changed: list[tuple[nn.Module, str, bool]] = []

    def before_forward(module: nn.Module, inputs: Any) -> None:
        found = change(module)
        if found is not None and getattr(module, found[0]) != found[1]:
            changed.append((module, found[0], not found[1]))
            setattr(module, *found)

    handle = register_module_forward_pre_hook(before_forward)
    try:
        yield
    finally:
        handle.remove()
        for module, name, value in changed:
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
