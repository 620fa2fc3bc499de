"""How a batch is split over workers and m-groups. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self


@dataclass(frozen=True, slots=True)
class GroupLayout:
    """The place of one worker's examples among the m-groups of the global batch.

    Worker r takes rows [r·b, (r+1)·b) of the batch; group i consists of rows [i·m, (i+1)·m). Hence the groups, and
    with them the step, do not depend on the number of workers.
    """

    batch_size: int
    """B, examples per step over all workers."""
    num_workers: int
    """P."""
    rank: int
    group_size: int
    """m, examples that share one perturbation."""

    @classmethod
    def resolve(cls, m: int | Literal["worker", "global"], *, batch_size: int, num_workers: int, rank: int = 0) -> Self:
        """The layout for an m as it stands in a search space.

        Raises:
            ValueError: the workers do not divide the batch; or m neither divides b = B/P nor is a multiple of b that
                divides B. One line: the rule, then the values.
        """
        if num_workers < 1 or not 0 <= rank < num_workers:
            raise ValueError(f"rank must lie in [0, num_workers) (rank is {rank}, num_workers {num_workers})")
        if batch_size < 1 or batch_size % num_workers:
            raise ValueError(
                "batch_size must be a positive multiple of num_workers "
                f"(batch_size is {batch_size}, num_workers {num_workers})"
            )
        b = batch_size // num_workers
        size = {"worker": b, "global": batch_size}[m] if isinstance(m, str) else m
        if size < 1 or (b % size and (size % b or batch_size % size)):
            raise ValueError(
                "m must divide the examples per worker, or be a multiple of them that divides batch_size "
                f"(m is {size}, examples per worker {b}, batch_size {batch_size})"
            )
        return cls(batch_size=batch_size, num_workers=num_workers, rank=rank, group_size=size)

    @property
    def worker_batch_size(self) -> int:
        """b, examples per worker and step."""
        return self.batch_size // self.num_workers

    @property
    def num_groups(self) -> int:
        """m-groups of the global batch."""
        return self.batch_size // self.group_size

    @property
    def forward_size(self) -> int:
        """Examples per forward on this worker: m, or b where a group spans several workers."""
        return min(self.group_size, self.worker_batch_size)

    @property
    def num_micro_groups(self) -> int:
        """Forwards that this worker's shard is split into."""
        return self.worker_batch_size // self.forward_size

    @property
    def workers_per_group(self) -> int:
        """Neighbouring workers that share one perturbation; 1: the ascent needs no communication."""
        return max(1, self.group_size // self.worker_batch_size)

    @property
    def first_group(self) -> int:
        """Index in the global batch of this worker's first m-group."""
        return self.rank * self.worker_batch_size // self.group_size

    @property
    def first_forward(self) -> int:
        """Index in the global batch of this worker's first forward; differs from `first_group` only for m > b."""
        return self.rank * self.num_micro_groups
