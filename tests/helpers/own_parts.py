"""What a user might bring along: a network, data, a loss, a metric."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

NOT_CALLABLE = 3


def make_net(num_classes: int, input_shape: tuple[int, ...], width: int = 8) -> nn.Module:
    size = int(torch.Size(input_shape).numel())
    return nn.Sequential(nn.Flatten(), nn.Linear(size, width), nn.Tanh(), nn.Linear(width, num_classes))


def not_a_net(num_classes: int, input_shape: tuple[int, ...]) -> str:
    return "net"


def blobs(count: int = 200, shift: float = 2.0) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Two Gaussians in the plane."""
    generator = torch.Generator().manual_seed(0)

    def draw(number: int) -> tuple[Tensor, Tensor]:
        classes = torch.arange(number) % 2
        return torch.randn(number, 2, generator=generator) + shift * classes[:, None], classes

    return draw(count), draw(count // 2)


class Noisy(Dataset[tuple[Tensor, int]]):
    """Examples that are augmented where they are read."""

    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.full((3,), float(index)) + torch.rand(3), index % 2


def noisy() -> tuple[Noisy, None]:
    return Noisy(), None


def three_sets(validation: bool = True, wide: bool = False) -> tuple[Any, ...]:
    """Inputs whose first number says which set they are of: 0, 1, 2."""

    def draw(number: int, part: float, width: int = 3) -> tuple[Tensor, Tensor]:
        return torch.full((number, width), part), torch.arange(number) % 2

    return draw(40, 0), draw(10, 1, 4 if wide else 3) if validation else None, draw(20, 2)


def images() -> tuple[tuple[Tensor, Tensor], None]:
    generator = torch.Generator().manual_seed(1)
    return (torch.randint(0, 256, (80, 3, 8, 8), dtype=torch.uint8, generator=generator), torch.arange(80) % 4), None


def wrong() -> tuple[tuple[Tensor, Tensor], None]:
    return (torch.zeros(4, 2), torch.zeros(3, dtype=torch.int64)), None


def twice_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return 2 * nn.functional.cross_entropy(outputs, targets)


def share_of_zeros(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(dim=1) == 0).float().mean()


class Measured(Dataset[tuple[Tensor, float]]):
    """Inputs and a number each."""

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self.inputs, self.numbers = inputs, targets

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, float]:
        return self.inputs[index], float(self.numbers[index])


def linear(width: int = 0, dataset: bool = False, binary: bool = False) -> tuple[Any, Any]:
    """Linear functions of normal inputs, with noise; `width` 0: one number as [N], else [N, width]."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(300, 4, generator=generator)
    weights = torch.randn(4, max(width, 1), generator=generator)
    targets = inputs @ weights + 0.1 * torch.randn(300, max(width, 1), generator=generator)
    targets = (targets > 0).float() if binary else targets
    targets = targets if width else targets[:, 0]
    pairs = [(inputs[:200], targets[:200]), (inputs[200:], targets[200:])]
    first, second = [Measured(*pair) for pair in pairs] if dataset else pairs
    return first, second
