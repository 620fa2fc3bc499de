"""Data sets that can only be gone through, as a user might have them; a module that worker processes can import."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

Example = tuple[Tensor, int]


def example(epoch: int, index: int) -> Example:
    """A function of its place, in float64."""
    inputs = torch.tensor([1.0, np.sin(index + 1), np.cos(3 * index + epoch)], dtype=torch.float64)
    return inputs, (index + epoch) % 3


class Passes(IterableDataset[Example]):
    """Examples that are others in each pass, which `set_epoch` tells."""

    def __init__(self, count: int = 21) -> None:
        self.count, self.epoch = count, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[Example]:
        return (example(self.epoch, index) for index in range(self.count))


class Noisy(IterableDataset[tuple[Tensor, float]]):
    """Draws order and noise from all three sources of random numbers."""

    def __iter__(self) -> Iterator[tuple[Tensor, float]]:
        for index in torch.randperm(10).tolist():
            yield torch.tensor([index + torch.rand(()).item(), np.random.rand(), random.random()]), 0.5


class WithState(IterableDataset[Example]):
    """Says where it is and goes there, as torchdata and Hugging Face's data sets do; counts what it has made."""

    made = 0

    def __init__(self, count: int = 21, unsaved: bool = False) -> None:
        self.count, self.at, self.epoch, self.unsaved = count, 0, 0, unsaved

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at, "object": object()} if self.unsaved else {"at": self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.at = state["at"]

    def __iter__(self) -> Iterator[Example]:
        while self.at < self.count:
            self.at += 1
            WithState.made += 1
            yield example(self.epoch, self.at - 1)


def from_function(count: int) -> Callable[[], Iterator[Example]]:
    return lambda: (example(0, index) for index in range(count))


def kept(number: int) -> tuple[Tensor, Tensor]:
    """The first examples as a set that is held in memory."""
    inputs, classes = zip(*(example(0, index) for index in range(number)), strict=True)
    return torch.stack(inputs), torch.tensor(classes)


def streams(train: str = "passes", count: int = 21, validation: str = "kept", test: bool = True) -> tuple[Any, ...]:
    """(train, validation, test), each of a kind that is named."""
    exhausted = iter([example(0, index) for index in range(count)])
    kinds: dict[str, Any] = {
        "passes": Passes(count),
        "state": WithState(count),
        "unsaved": WithState(count, unsaved=True),
        "function": from_function(count),
        "same_iterator": lambda: exhausted,
        "iterator": iter([example(0, 0)]),
        "generator": (example(0, index) for index in range(count)),
        "empty": Passes(0),
        "shapes": lambda: ((torch.zeros(3 + index // 4, dtype=torch.float64), 0) for index in range(count)),
        "many_classes": lambda: ((torch.zeros(3, dtype=torch.float64), index) for index in range(count)),
    }
    held_out: Any = {"kept": kept(10), "stream": Passes(10), "none": None}[validation]
    last = kept(11) if test else None
    return kinds[train], held_out, last


def two_sets() -> tuple[Any, Any]:
    return Passes(), kept(10)


def linear_net(num_classes: int, input_shape: tuple[int, ...]) -> nn.Module:
    """Linear, in float64, from fixed weights."""
    net = nn.Linear(input_shape[0], num_classes, bias=False, dtype=torch.float64)
    with torch.no_grad():
        net.weight.copy_(torch.linspace(-0.3, 0.4, net.weight.numel()).double().view_as(net.weight))
    return net
