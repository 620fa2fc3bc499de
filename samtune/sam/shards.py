"""Parameters that `fully_shard` has cut up: each rank works on its own rows, and norms are taken over all ranks'."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor."""
    dtensor = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", ())  # imported by whoever made one
    return isinstance(tensor, dtensor)


def shard_group(parameters: Sequence[Tensor]) -> dist.ProcessGroup | None:
    """The ranks over which parameters are sharded; None where none is.

    Raises:
        ValueError: some are not sharded, or not all over the same one dimension of ranks.
    """
    if not any(map(is_sharded, parameters)):
        return None
    from torch.distributed.tensor import Shard

    meshes = []
    for parameter in parameters:
        if not is_sharded(parameter):
            raise ValueError(
                "parameters must be sharded all or none (fully_shard of the whole model): the norm would count a "
                "parameter that each rank holds once per rank"
            )
        sharded: Any = parameter
        if sharded.device_mesh.ndim != 1 or not all(isinstance(each, Shard) for each in sharded.placements):
            raise ValueError(
                "sharded parameters (DTensor) are supported over one dimension of ranks, as fully_shard(model) makes "
                f"them (got {sharded.placements} over a mesh of {sharded.device_mesh.ndim}); tensor parallelism and "
                "hybrid sharding are not"
            )
        meshes.append(sharded.device_mesh)
    if any(mesh != meshes[0] for mesh in meshes):
        raise ValueError("sharded parameters (DTensor) must all be sharded over the same ranks")
    return cast(dist.ProcessGroup, meshes[0].get_group())


def local(tensors: Sequence[Tensor]) -> list[Tensor]:
    """This rank's part of each tensor, in the same storage; of what is not sharded, the tensor."""
    return [cast(Any, tensor)._local_tensor if is_sharded(tensor) else tensor for tensor in tensors]


def gathered(value: Tensor, group: dist.ProcessGroup) -> Tensor:
    """A number of each rank, in 64 bits and in rank order; the same on all. A collective."""
    own = value.double()
    every = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(every, own, group=group)
    return torch.stack(every)
