"""Mistakes that users make in their own parts. The tests count on the lines."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset


def right(num_classes: int, input_shape: tuple[int, ...]) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))


made = right(10, (1, 8, 8))


def wrong_width(num_classes: int, input_shape: tuple[int, ...]) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(7, num_classes))


class WrongForward(nn.Linear):
    def __init__(self, num_classes: int, input_shape: tuple[int, ...]) -> None:
        super().__init__(3, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs.flatten(1))


class GivesADict(nn.Linear):
    def __init__(self, num_classes: int, input_shape: tuple[int, ...]) -> None:
        super().__init__(64, num_classes)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"scores": super().forward(inputs.flatten(1))}


def divides(outputs: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(outputs, targets) * (1 / 0)


def vector_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(outputs, targets, reduction="none")


def detached_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(outputs, targets).detach()


def vector_metric(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(dim=1) == targets).float()


def number_metric(outputs: Tensor, targets: Tensor) -> Any:
    return vector_metric(outputs, targets).mean().item()


def needs_a_card(outputs: Tensor, targets: Tensor) -> Tensor:
    raise AssertionError("Torch not compiled with CUDA enabled")


class Mixed(Dataset[Any]):
    """Inputs that cannot be put into one batch."""

    targets = (0, 1) * 30

    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> Any:
        return (torch.zeros(3) if index == 0 else {"image": torch.zeros(3)}), index % 2


def mixed() -> tuple[Mixed, None]:
    return Mixed(), None


class Named(Dataset[Any]):
    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> Any:
        return torch.zeros(3), "cat"


def named() -> tuple[Named, None]:
    return Named(), None


def in_one_process(outputs: Tensor, targets: Tensor) -> Tensor:
    """Works in the first process that calls it."""
    file = Path(os.environ["FIRST_PROCESS"])
    with suppress(FileExistsError), file.open("x") as first:
        first.write(str(os.getpid()))
    if file.read_text() != str(os.getpid()):
        raise MemoryError
    return cross_entropy(outputs, targets)
