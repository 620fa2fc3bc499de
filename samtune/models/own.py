"""A network of the user's, from the function that an import path names."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from samtune.config.model import OwnModelConfig
from samtune.errors import UsageError
from samtune.user_code import resolve_function


def own_model(
    config: OwnModelConfig,
    num_classes: int,
    input_shape: tuple[int, ...],
    function: Callable[..., nn.Module] | None = None,
) -> nn.Module:
    """What the function returns.

    Args:
        function: default: what the configuration names, which is imported.

    Raises:
        UsageError: it cannot be imported, or does not return a module.
    """
    function = function or resolve_function(config.name, "model.name")
    model = function(num_classes=num_classes, input_shape=input_shape, **config.options)
    if not isinstance(model, nn.Module):
        raise UsageError(f"model.name: {config.name} must return a torch.nn.Module (got {type(model).__name__})")
    return model
