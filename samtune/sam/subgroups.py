"""Process sub-groups for perturbations that several neighbouring workers share."""

from __future__ import annotations

import weakref

import torch.distributed as dist

# A worker process trains one trial after another in one process group; a sub-group costs a rendezvous and, with NCCL,
# device memory, so it is made once and kept as long as the process group itself.
_made: dict[int, dist.ProcessGroup] = {}
_made_in: weakref.ref[dist.ProcessGroup] | None = None


def ascent_group(num_workers: int) -> dist.ProcessGroup:
    """This rank's block of `num_workers` neighbouring ranks. The first call for a number is a collective."""
    global _made_in
    world = dist.group.WORLD
    assert world is not None, "torch.distributed is not initialised"
    if _made_in is None or _made_in() is not world:
        _made.clear()
        _made_in = weakref.ref(world)
    if num_workers not in _made:
        _made[num_workers] = world if num_workers == dist.get_world_size() else dist.new_subgroups(num_workers)[0]
    return _made[num_workers]
