"""Parameters that `fully_shard` has cut up: each rank works on its own rows, and norms are taken over all ranks'."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn


def is_sharded(tensor: object) -> bool:
    """Whether a tensor is a DTensor."""
    return isinstance(tensor, _dtensor())


def _dtensor() -> Any:
    return getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", ())  # imported by whoever made one


class Shards:
    """How parameters that `fully_shard` has cut up lie over the ranks.

    Args:
        parameters: DTensors.
        group: the ranks.
    """

    def __init__(self, parameters: Sequence[Tensor], group: dist.ProcessGroup) -> None:
        self.group = group
        self._parameters = list(parameters)
        self._by_part = {id(part): parameter for part, parameter in zip(self.parts, parameters, strict=True)}

    @property
    def parts(self) -> list[Tensor]:
        """This rank's part of each parameter, in the same storage."""
        return local(self._parameters)

    def shape(self, part: Tensor) -> torch.Size:
        """Of the parameter that one of `parts` belongs to."""
        return self._by_part[id(part)].shape

    def cut(self, part: Tensor, whole: Tensor) -> Tensor:
        """What this rank has of a tensor that is cut up like the parameter of one of `parts`."""
        return cut_like(self._by_part[id(part)], whole)

    def cut_all(self, vector: Sequence[Tensor]) -> list[Tensor]:
        """What this rank has of a vector, one whole tensor per parameter."""
        return [cut_like(parameter, whole) for parameter, whole in zip(self._parameters, vector, strict=True)]

    def whole(self, vector: Sequence[Tensor]) -> list[Tensor]:
        """The vector that each rank has its part of; the same on all. A collective."""
        return [
            whole_tensor(wrapped(part, parameter)) for part, parameter in zip(vector, self._parameters, strict=True)
        ]


def shards_of(parameters: Sequence[Tensor]) -> Shards | None:
    """How parameters are sharded; None where none is.

    Raises:
        ValueError: some are not sharded, or not all over the same one dimension of ranks.
    """
    group = _shard_group(parameters)
    return None if group is None else Shards(parameters, group)


def _shard_group(parameters: Sequence[Tensor]) -> dist.ProcessGroup | None:
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
    dtensor = _dtensor()
    return [cast(Any, tensor)._local_tensor if isinstance(tensor, dtensor) else tensor for tensor in tensors]


def wrapped(part: Tensor, like: Tensor) -> Tensor:
    """This rank's part as a DTensor that is cut up like another one."""
    from torch.distributed.tensor import DTensor

    other: Any = like
    return DTensor.from_local(
        part, other.device_mesh, other.placements, run_check=False, shape=other.shape, stride=other.stride()
    )


_keeps: ContextVar[bool | None] = ContextVar("keeps", default=None)


@contextmanager
def collected(keeps: bool) -> Iterator[None]:
    """Inside, what is made whole goes to the host, one tensor after another, of the ranks that keep it.

    The others get empty tensors. So no device, and one host alone, needs memory for all of it.
    """
    token = _keeps.set(keeps)
    try:
        yield
    finally:
        _keeps.reset(token)


def whole_tensor(tensor: Tensor) -> Tensor:
    """The whole of a DTensor, the same on all ranks but inside `collected`. A collective."""
    whole: Tensor = cast(Any, tensor).full_tensor()
    keeps = _keeps.get()
    if keeps is None:
        return whole
    return whole.cpu() if keeps else whole.new_empty(0)


def distributed_like(like: Tensor, whole: Tensor) -> Tensor:
    """A whole tensor, which every rank has, cut up like a DTensor."""
    from torch.distributed.tensor import distribute_tensor

    other: Any = like
    whole = whole.to(other.device)
    return distribute_tensor(whole, other.device_mesh, other.placements, src_data_rank=None)


def cut_like(like: Tensor, whole: Tensor) -> Tensor:
    """What this rank has of a whole tensor that is cut up like a DTensor."""
    part: Tensor = cast(Any, distributed_like(like, whole)).to_local()
    return part.clone()


def settle(model: nn.Module) -> None:
    """Lets `fully_shard` make its parts of the parameters, which it may replace before the first forward.

    A collective, on a model that is sharded.
    """
    for module in _sharded_modules(model):
        module.unshard()
        module.reshard()


def reshard(model: nn.Module) -> None:
    """Drops whole parameters that a forward without a backward has left: they would hide that the parts change."""
    for module in _sharded_modules(model):
        module.reshard()


def _sharded_modules(model: nn.Module) -> list[Any]:
    cls = getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", ())
    return [module for module in model.modules() if isinstance(module, cls)] if cls else []
