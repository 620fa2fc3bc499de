"""DistributedDataParallel around the model of a step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from samtune.sam.gradients import depends_on_all
from samtune.sam.running_state import RunningState


def data_parallel(
    model: nn.Module, loss: Callable[[], Tensor], parameters: Sequence[Tensor], state: RunningState
) -> DistributedDataParallel:
    """The model, wrapped; set up for parameters that the loss does not depend on, where there are any. A collective.

    Args:
        loss: runs the model once.
        parameters: all of the model.
        state: of the model; it stays as it is.
    """
    own = state.save()
    value = loss()
    own.restore()
    unused = not depends_on_all(value, [parameter for parameter in parameters if parameter.requires_grad])
    flag = torch.tensor(float(unused), device=value.device)
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    # Renamed in torch 2.15. Running statistics stay each worker's own until they are averaged.
    renamed = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    options: dict[str, Any] = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
    wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True, find_unused_parameters=bool(flag), **options)
    own.restore()  # the first rank's were sent to all, and in the middle of an epoch they differ
    return wrapped
