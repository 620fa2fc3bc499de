"""What `SAM` does around a user's closure: it knows the parameters, and finds the rest by `ClosureScope`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel


@contextmanager
def ascent_run(modules: Sequence[nn.Module], *, local: bool) -> Iterator[None]:
    """Around the closure's run at w: shake modules use the true gradient (see `ModelNoise`).

    Args:
        modules: that the closure may call.
        local: DistributedDataParallel's forwards prepare no all-reduce (its `no_sync` must cover the forward).

    Raises:
        ValueError: DistributedDataParallel cannot leave the all-reduce out.
    """
    # Not isinstance: the wrapper's class is abstract, and asking an abstract class takes a microsecond per module.
    wrappers = [m for m in modules if DistributedDataParallel in type(m).__mro__] if local else []
    if any(wrapper.static_graph for wrapper in wrappers):
        raise ValueError(
            "DistributedDataParallel(static_graph=True) cannot leave out the all-reduce of the first pass, which SAM "
            "needs with m='worker': use static_graph=False, or SAM(..., m='global')"
        )
    with _setting(modules, "true_gradient", True), _setting(wrappers, "require_backward_grad_sync", False):
        yield


@contextmanager
def descent_run(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Around the closure's run at w + ε̂: shake modules use another gradient than the true one."""
    with _setting(modules, "true_gradient", False):
        yield


@contextmanager
def _setting(modules: Sequence[nn.Module], name: str, value: bool) -> Iterator[None]:
    """Modules that have the attribute have it at this value."""
    # A module without the attribute is asked twice, in vain and slowly, if it is asked by getattr.
    having = [module for module in modules if name in module.__dict__ or hasattr(type(module), name)]
    changed = [module for module in having if getattr(module, name) != value]
    for module in changed:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module in changed:
            setattr(module, name, not value)


@contextmanager
def refusing_scaled_gradients(scalers: Sequence[torch.amp.GradScaler], optimizer: Any) -> Iterator[None]:
    """Raises ValueError if the closure scales the loss and leaves the gradients scaled.

    The step would be `scale` times too long, in silence: GradScaler.step, which takes care of it for other optimizers,
    takes no closure. What the closure does with the scaler is seen in the calls that it makes.
    """
    with ExitStack() as stack:
        calls = [stack.enter_context(_recording_calls(scaler)) for scaler in scalers if scaler.is_enabled()]
        yield
        for called in calls:
            unscaled = "get_scale" in called or optimizer in called.get("unscale_", ())
            if "scale" in called and not unscaled:
                raise ValueError(
                    "the closure scales the loss with a GradScaler, and leaves the gradients scaled: after "
                    "scaler.scale(loss).backward() it must call scaler.unscale_(optimizer) and scaler.update()"
                )


@contextmanager
def _recording_calls(scaler: torch.amp.GradScaler) -> Iterator[dict[str, list[Any]]]:
    called: dict[str, list[Any]] = {}

    def recorder(name: str) -> Any:
        method = getattr(scaler, name)

        def call(*arguments: Any) -> Any:
            called.setdefault(name, []).extend(arguments[:1])
            return method(*arguments)

        return call

    names = ("scale", "unscale_", "get_scale")
    for name in names:
        vars(scaler)[name] = recorder(name)
    try:
        yield called
    finally:
        for name in names:
            vars(scaler).pop(name, None)
