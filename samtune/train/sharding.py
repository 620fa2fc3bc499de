"""Networks whose weights are cut up over the workers, by `fully_shard` (FSDP2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from samtune.errors import UsageError, one_line
from samtune.sam.sharded_step import cut_state, whole_state
from samtune.sam.shards import is_sharded, reshard

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def shard(model: nn.Module, device: torch.device, **options: Any) -> None:
    """Cuts a network's parameters up over all workers, in place: `fully_shard` of each block, then of the rest.

    The blocks are the network's children that hold parameters; of a Sequential, ModuleList or ModuleDict its children,
    and so on. Parameters that two blocks share stay with the rest. On one worker nothing happens.

    Args:
        options: of `fully_shard`: mp_policy, reshard_after_forward, …

    Raises:
        UsageError: torch refuses the network.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    try:
        for block in blocks(model):
            fully_shard(block, mesh=mesh, **options)
        fully_shard(model, mesh=mesh, **options)
    except (ValueError, NotImplementedError) as error:
        raise UsageError(f"training.parallel: fully_shard refuses the network: {one_line(error)}") from error


def blocks(model: nn.Module) -> list[nn.Module]:
    """What is sharded by itself: see `shard`."""
    found = list(dict.fromkeys(_blocks(model)))
    holders = Counter(id(parameter) for block in found for parameter in block.parameters())
    return [block for block in found if all(holders[id(parameter)] == 1 for parameter in block.parameters())]


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, _CONTAINERS):
            yield from _blocks(child)
        elif next(child.parameters(), None) is not None:
            yield child


def is_sharded_model(model: nn.Module) -> bool:
    """Whether a network is cut up."""
    return any(map(is_sharded, model.parameters()))


def whole_model_state(model: nn.Module) -> dict[str, Any]:
    """A network's state with whole tensors; where it is cut up a collective."""
    reshard(model)
    return whole_state(model.state_dict())


def load_whole_model_state(model: nn.Module, state: dict[str, Any]) -> None:
    """Goes on from `whole_model_state`, cut up or not."""
    reshard(model)
    model.load_state_dict(cut_state(state, model.state_dict()))


def share_buffers(model: nn.Module) -> RemovableHandle:
    """Before each forward all workers take the first one's buffers, as DistributedDataParallel does: BatchNorm's
    running statistics and the like, which `fully_shard` leaves to each worker. Until the handle is removed.
    """
    return model.register_forward_pre_hook(lambda module, inputs: _broadcast(list(module.buffers())))


@torch.no_grad()
def _broadcast(tensors: list[Tensor]) -> None:
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        some = [tensor for tensor in tensors if tensor.dtype == dtype]
        flat = torch.cat([tensor.flatten() for tensor in some])
        dist.broadcast(flat, 0)
        for tensor, part in zip(some, torch.split(flat, [tensor.numel() for tensor in some]), strict=True):
            tensor.copy_(part.view_as(tensor))


def in_step(batches: Iterable[Any], device: torch.device, spare: Any = None) -> Iterator[tuple[Any, bool]]:
    """Batches, and whether they count: where other workers have more, the last one again, which does not.

    A forward of a sharded network is a collective: all workers make as many. A collective per batch.

    Args:
        spare: what a worker without a batch goes through.

    Raises:
        UsageError: a worker has neither; on all workers.
    """
    source, last = iter(batches), spare
    while True:
        batch = next(source, None)
        last = last if batch is None else batch
        found = torch.tensor([float(batch is not None), float(last is None)], device=device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        more, lacking = found.tolist()
        if not more:
            return
        if lacking:
            raise UsageError("training.parallel: fsdp needs an example for each worker in every evaluation")
        yield last, batch is not None
