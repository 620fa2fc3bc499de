"""The trainable weights, moved to perturbed points and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from samtune.sam import vectors
from samtune.sam.exchange import Exchange
from samtune.sam.shards import is_sharded, local, shards_of


class Weights:
    """Parameters that are perturbed and restored bit for bit.

    Subtracting ε̂ again would drift by a rounding error in each step, and apart on each worker. So w stays where it is
    while large parameters have other memory for w + ε̂ (see `Exchange`). All others are perturbed in place: w is copied
    before the first perturbation of a step and copied back. Either way the parameters have their own memory again when
    they are restored.

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
        self.moved = False
        """Whether the parameters are perturbed."""
        self._exchange = Exchange(self.parameters if self.shards is None else [])
        self._origin: dict[int, Tensor] = {}  # w of the parameters that move in place, by position; allocated once
        self._saved: list[int] = []  # those of them whose copy is valid
        self._in_place: list[int] = []  # those of them that have moved

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
        self.restore()
        self.before_move()
        positions = list(range(len(self.parameters)) if only is None else only)
        exchanged = set(self._exchange.possible()).intersection(positions)
        shift = dict(zip(positions, perturbation, strict=True))
        in_place = [index for index in positions if index not in exchanged]
        self._save(in_place)
        self.moved, self._in_place = True, in_place
        if exchanged:
            self._exchange.go({index: shift[index] for index in positions if index in exchanged}, scale)
        own = self.parts
        vectors.add_([own[index] for index in in_place], [shift[index] for index in in_place], scale)
        torch.clear_autocast_cache()

    def forget(self) -> None:
        """The parameters are at a new w: what was saved is not valid any more."""
        assert not self.moved
        self._saved = []

    @torch.no_grad()
    def restore(self) -> None:
        """Moves back to w."""
        if self.moved:
            self.before_move()
            self._exchange.back()
            own = self.parts
            vectors.copy_([own[index] for index in self._in_place], [self._origin[index] for index in self._in_place])
            torch.clear_autocast_cache()
            self.moved = False

    def _save(self, positions: list[int]) -> None:
        """Copies w of parameters that are about to move in place."""
        if self._saved == positions:
            return
        own = self.parts
        for index in positions:
            if index not in self._origin:
                self._origin[index] = torch.empty_like(own[index])
        vectors.copy_([self._origin[index] for index in positions], [own[index] for index in positions])
        self._saved = positions


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
