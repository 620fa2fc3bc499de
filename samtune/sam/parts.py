"""Vectors of which each rank has a part, since `fully_shard` has cut up the parameters that they belong to.

Inside `over_shards`, norms and products of such vectors (`samtune.sam.vectors`) are those of the whole ones, and random
vectors are parts of what a single worker would draw. A vector is a list of tensors, one per parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.distributed as dist
from torch import Tensor

from samtune.sam.shards import Shards

_shards: ContextVar[Shards | None] = ContextVar("shards", default=None)


@contextmanager
def over_shards(shards: Shards | None) -> Iterator[None]:
    """Inside, each rank has a part of every vector, and norms and products are collectives; None: the whole vector."""
    token = _shards.set(shards)
    try:
        yield
    finally:
        _shards.reset(token)


def of_all_ranks(own: Tensor) -> list[Tensor]:
    """A number of each rank that has a part, in 64 bits and rank order, the same on all; else the number itself."""
    shards = _shards.get()
    return [own] if shards is None else list(_gathered(own, shards.group))


def summed(own: Tensor) -> Tensor:
    """The sum of a number over the ranks that have parts."""
    shards = _shards.get()
    return own if shards is None else _gathered(own, shards.group).sum()


def _gathered(own: Tensor, group: dist.ProcessGroup) -> Tensor:
    own = own.double()
    every = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(every, own, group=group)
    return torch.stack(every)


def placed(values: Tensor, counts: bool) -> Tensor:
    """Numbers of this rank's part [n] among those of all parts, which are 0.

    Args:
        counts: where vectors are whole: False makes them 0.
    """
    shards = _shards.get()
    if shards is None:
        return values * float(counts)
    sizes = [int(size) for size in _gathered(values.new_tensor(float(len(values))), shards.group)]
    first = sum(sizes[: dist.get_rank(shards.group)])
    every = values.new_zeros(sum(sizes))
    every[first : first + len(values)] = values
    return every


def whole_shapes(parameters: Sequence[Tensor]) -> list[torch.Size]:
    """Of parameters that this rank may have a part of."""
    shards = _shards.get()
    return [p.shape if shards is None else shards.shape(p) for p in parameters]


def num_entries(parameters: Sequence[Tensor]) -> int:
    """How many numbers the whole of some parameters has."""
    return sum(shape.numel() for shape in whole_shapes(parameters))


def whole(vector: Sequence[Tensor]) -> list[Tensor]:
    """The whole of a vector that this rank may have a part of. A collective, if so."""
    shards = _shards.get()
    return list(vector) if shards is None else shards.whole(vector)


def own_part(vector: Sequence[Tensor]) -> list[Tensor]:
    """What this rank has of a whole vector."""
    shards = _shards.get()
    return list(vector) if shards is None else shards.cut_all(vector)


def drawn_like(parameters: Sequence[Tensor], draw: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Random tensors of the parameters' shapes, dtypes and devices.

    Args:
        draw: fills a tensor.
    """
    shards = _shards.get()
    if shards is None:
        return [draw(torch.empty(p.shape, dtype=p.dtype, device=p.device)) for p in parameters]  # not p's memory layout
    return [shards.cut(p, draw(torch.empty(shards.shape(p), dtype=p.dtype, device=p.device))) for p in parameters]
