"""Large parameters move to w + ε by an exchange of memory: w is neither copied before nor copied back after."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from samtune.sam import vectors

SMALLEST = 2**15  # entries; below, looking whether an exchange is safe costs as much as the copies it saves

# Private, and torch has nothing public for it (2.9 to 2.14): the number of tensors that share a storage.
_num_users: Callable[[int], int] | None = getattr(torch._C, "_storage_Use_Count", None)


def _users_of_one_tensor() -> int:
    tensor = torch.empty(1)
    return 0 if _num_users is None else _num_users(tensor.untyped_storage()._cdata)


_ALONE = _users_of_one_tensor()


class Exchange:
    """Gives parameters other memory, which holds w + ε, and then their own back, which still holds w.

    That is done with parameters on a CPU whose memory nobody else has: no other parameter, no view, no `detach()` of it
    that somebody keeps, no graph that a backward has left. Whoever has it would not see the parameter move. So the
    number of those who have it is looked at before each move. An accelerator is left out since what was recorded there
    (CUDA graphs) holds addresses.

    To autograd both ways count as writing into the parameter: a graph that has saved it cannot be used after a move.

    Args:
        parameters: whole ones, not DTensors.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._parameters = list(parameters)
        self._large = [index for index, parameter in enumerate(self._parameters) if parameter.numel() >= SMALLEST]
        self._aways: dict[int, Tensor] = {}  # memory for w + ε, by position; allocated once
        self._homes: dict[int, Tensor] = {}  # w of those that have moved

    def possible(self) -> list[int]:
        """Positions of the parameters with which it can be done now."""
        if not self._large or _num_users is None or torch.is_inference_mode_enabled():
            return []
        return [index for index in self._large if self._is_possible(index)]

    @torch.no_grad()
    def go(self, perturbation: Mapping[int, Tensor], scale: Tensor | float | None) -> None:
        """Moves from w to w + scale · ε.

        Args:
            perturbation: ε, by positions that are `possible`.
        """
        moving = [self._parameters[index] for index in perturbation]
        aways = [self._aways[index] for index in perturbation]
        vectors.add_into_(aways, moving, list(perturbation.values()), scale)
        self._homes = {index: parameter.data for index, parameter in zip(perturbation, moving, strict=True)}
        for parameter, away in zip(moving, aways, strict=True):
            parameter.data = away
        increment_version(moving)

    def back(self) -> None:
        """Moves back to w."""
        for index, home in self._homes.items():
            self._parameters[index].data = home
        increment_version([self._parameters[index] for index in self._homes])
        self._homes = {}

    def _is_possible(self, index: int) -> bool:
        parameter, away = self._parameters[index], self._aways.get(index)
        # A forward at w + ε may have left somebody with a view of the memory there, who keeps it.
        if away is None or not _is_alone(away) or not _are_alike(parameter, away):
            self._aways.pop(index, None)
            if not _is_plain(parameter):
                return False
            self._aways[index] = torch.empty_like(parameter)
        return _is_alone(parameter)


def _is_alone(tensor: Tensor) -> bool:
    """Whether no other tensor has its memory."""
    assert _num_users is not None
    return _num_users(tensor.untyped_storage()._cdata) == _ALONE


def _are_alike(tensor: Tensor, other: Tensor) -> bool:
    return (
        tensor.shape == other.shape
        and tensor.stride() == other.stride()
        and tensor.dtype == other.dtype
        and tensor.device == other.device
    )


def _is_plain(parameter: Tensor) -> bool:
    """Whether it lies on a CPU, and an empty tensor like it can stand for it: no subclass, no gap or overlap."""
    if type(parameter) not in (Tensor, nn.Parameter) or not parameter.is_cpu or parameter.layout is not torch.strided:
        return False
    return parameter.is_leaf and _are_alike(parameter, torch.empty_like(parameter))
