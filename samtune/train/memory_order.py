"""The order of images and convolutions in memory: channels last, or torch's own, and which networks take which."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from samtune.config.library_model import TimmConfig, TransformersConfig
from samtune.config.model import OwnModelConfig
from samtune.config.trial import TrialSpec
from samtune.data import Dataset, training_examples
from samtune.sam import tree


def may_be_channels_last(model: nn.Module, spec: TrialSpec, device: torch.device) -> bool:
    """Whether that order may be chosen for a trial.

    On a CPU only without code of the user's: a network, loss, metric, method or optimizer that calls `view` has worked
    there in torch's own order, and not all of that can be tried.
    """
    return has_convolutions(model) and (device.type != "cpu" or not _has_own_code(spec))


def begins_in_channels_last(model: nn.Module, spec: TrialSpec, dataset: Dataset, device: torch.device) -> bool:
    """Brings a network into that order, or leaves it in torch's own where `auto` has chosen one that it does not take.

    Returns:
        Whether it is in that order now.
    """
    set_order(model, channels_last=True)
    if _is_own_model(spec) and spec.training.channels_last == "auto":
        inputs, _ = training_examples(dataset, 2, device=device)
        if not runs_in_channels_last(model, inputs):
            set_order(model, channels_last=False)
            return False
    return True


def set_order(model: nn.Module, *, channels_last: bool) -> None:
    """Brings a network's weights and buffers into that order, or into torch's own."""
    model.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def has_convolutions(model: nn.Module) -> bool:
    """Whether a network has weights that channels-last order is about, and none that it cannot be asked of."""
    sizes = {tensor.ndim for tensor in (*model.parameters(), *model.buffers())}
    return 5 not in sizes and any(parameter.ndim == 4 for parameter in model.parameters())


@torch.no_grad()
def runs_in_channels_last(model: nn.Module, inputs: Any) -> bool:
    """Whether a network in that order takes images in it: `x.view(len(x), -1)` after a convolution does not.

    Leaves the network as it is, and the host's random numbers of torch.

    Args:
        inputs: two examples or more: of one, `view` can do more.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.random.fork_rng(devices=[]):
            tree.call(model, in_channels_last(inputs))
    except Exception:  # another error comes again, in the first step
        return False
    finally:
        model.train(was_training)
    return True


def in_channels_last(inputs: Any) -> Any:
    """Batches of images with their channels as neighbors in memory; other tensors as they are."""
    return tree.map_tensors(_reordered, inputs)


def _reordered(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _is_own_model(spec: TrialSpec) -> bool:
    return isinstance(spec.model, OwnModelConfig | TimmConfig | TransformersConfig)


def _has_own_code(spec: TrialSpec) -> bool:
    """Whether a part that sees images, outputs, weights or gradients is named by an import path."""
    training = spec.training
    names = (spec.method.name, training.loss, training.optimizer_name, *training.metrics)
    return _is_own_model(spec) or any(":" in name for name in names)
