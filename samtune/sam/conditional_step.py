"""The base optimizer's step, taken only where the gradient is finite, without waiting for the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from samtune.sam.shards import is_sharded


def step_if(finite: Tensor, optimizer: Optimizer) -> None:
    """`optimizer.step()` if `finite` holds, else nothing changes: neither parameters nor the optimizer's state.

    On the CPU looking at `finite` costs nothing. On an accelerator it would empty the queue of kernels once per step;
    so fused optimizers are told on the device, as torch.amp.GradScaler does it, and for all others the step is taken
    and undone by a select. Until the optimizer has made its state there is nothing to go back to: the first step looks.
    So does every step on sharded parameters, whose collectives wait anyway.

    Args:
        finite: a boolean scalar tensor, the same on every worker.
    """
    if finite.device.type == "cpu" or not _has_state(optimizer) or any(map(is_sharded, _trained(optimizer))):
        if finite:
            optimizer.step()
    elif getattr(optimizer, "_step_supports_amp_scaling", False):
        _fused_step(finite, optimizer)
    else:
        _select_step(finite, optimizer)


def _fused_step(finite: Tensor, optimizer: Optimizer) -> None:
    optimizer.grad_scale = None  # type: ignore[attr-defined]
    optimizer.found_inf = (~finite).to(torch.float32)  # type: ignore[attr-defined]
    try:
        optimizer.step()
    finally:
        del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]


def _select_step(finite: Tensor, optimizer: Optimizer) -> None:
    tensors = _tensors(optimizer)
    before = [tensor.clone() for tensor in tensors]
    optimizer.step()
    select_(finite, tensors, before)


@torch.no_grad()
def select_(keep: Tensor, tensors: Sequence[Tensor], before: Sequence[Tensor]) -> None:
    """tensors = tensors if keep else before, in place and on the device."""
    for tensor, old in zip(tensors, before, strict=True):
        torch.where(keep.to(tensor.device), tensor, old, out=tensor)


def _trained(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def _has_state(optimizer: Optimizer) -> bool:
    """Whether every tensor that the step will touch exists already (plain SGD keeps no state at all)."""
    if isinstance(optimizer, torch.optim.SGD) and all(group["momentum"] == 0 for group in optimizer.param_groups):
        return True
    return all(
        any(isinstance(value, Tensor) for value in optimizer.state[parameter].values())
        for parameter in _trained(optimizer)
    )


def _tensors(optimizer: Optimizer) -> list[Tensor]:
    """Parameters and state."""
    tensors: list[Tensor] = []
    for parameter in _trained(optimizer):
        tensors.append(parameter.detach())
        tensors += [value for value in optimizer.state[parameter].values() if isinstance(value, Tensor)]
    return tensors
