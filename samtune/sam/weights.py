"""The trainable weights, moved to perturbed points and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from samtune.sam import vectors
from samtune.sam.shards import is_sharded, local, shards_of


class Weights:
    """Parameters that are perturbed in place and restored bit for bit.

    Subtracting ε̂ again would drift by a rounding error in each step, and apart on each worker; so w is copied before
    the first perturbation of a step and copied back. The storage of the parameters never changes.

    A region of `torch.autocast` keeps low-precision copies of the weights for all forwards inside it. They are dropped
    whenever the weights move: otherwise a perturbation inside such a region has no effect.

    Args:
        sharded: whether the parameters may be DTensors, sharded by `fully_shard`; perturbations are then of this rank's
            part alone.

    Raises:
        ValueError: parameters are sharded or complex.
    """

    def __init__(self, parameters: Sequence[Tensor], *, sharded: bool = False) -> None:
        check_parameters(parameters, sharded=sharded)
        self.parameters = list(parameters)
        self.shards = shards_of(self.parameters) if sharded else None
        """How the parameters lie over the ranks; None: they are whole."""
        self.before_move: Callable[[], None] = lambda: None
        """Called before the parameters move: what has copies of them drops these."""
        self.origin: list[Tensor] = []
        """w, valid inside `held` once a perturbation was made. Allocated by the first one and kept."""
        self.moved = False
        """Whether the parameters are perturbed."""
        self._saved = False

    @property
    def parts(self) -> list[Tensor]:
        """What this rank has of the parameters."""
        return self.parameters if self.shards is None else local(self.parameters)

    @contextmanager
    def held(self) -> Iterator[None]:
        """The parameters are at w again when this ends, whatever happened inside."""
        try:
            yield
        finally:
            self.restore()
            self.forget()

    @torch.no_grad()
    def perturb(
        self,
        perturbation: Sequence[Tensor],
        scale: Tensor | float | None = None,
        *,
        only: Sequence[int] | None = None,
    ) -> None:
        """Moves to w + ε, from wherever the parameters are.

        Args:
            scale: a factor of ε.
            only: positions of the parameters that `perturbation` has a tensor for; None: all.
        """
        own = self.parts
        if not self._saved:
            if not self.origin:
                self.origin = [torch.empty_like(parameter) for parameter in own]
            vectors.copy_(self.origin, own)
            self._saved = True
        self.restore()
        self.before_move()
        self.moved = True
        vectors.add_(own if only is None else [own[index] for index in only], perturbation, scale)
        torch.clear_autocast_cache()

    def forget(self) -> None:
        """The parameters are at a new w: what was saved is not valid any more."""
        assert not self.moved
        self._saved = False

    @torch.no_grad()
    def restore(self) -> None:
        """Moves back to w."""
        if self.moved:
            self.before_move()
            vectors.copy_(self.parts, self.origin)
            torch.clear_autocast_cache()
            self.moved = False


def check_parameters(parameters: Sequence[Tensor], *, sharded: bool = False) -> None:
    """Raises ValueError for parameters whose norms and perturbations would come out wrong.

    Args:
        sharded: whether whoever asks takes DTensors.
    """
    for parameter in parameters:
        if is_sharded(parameter) and not sharded:
            raise ValueError(
                "sharded parameters (DTensor: fully_shard, tensor parallelism) are not supported here: every norm "
                "would be that of a shard; use DistributedDataParallel (samtune.sam.SAM and TrainStep take fully_shard)"
            )
        # What FullyShardedDataParallel sets on the parameters that it cuts up, whether it shows the originals or not.
        if getattr(parameter, "_fsdp_flattened", False):
            raise ValueError(
                "sharded parameters (FullyShardedDataParallel) are not supported: every norm would be that of a shard; "
                "use DistributedDataParallel"
            )
        if parameter.is_complex():
            raise ValueError(
                f"parameters must be real (got {parameter.dtype}): keep torch.view_as_real of them as the parameter"
            )
