"""Data, networks and losses whose batches are nested, each beside the same with one tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset


def numbers() -> tuple[Tensor, Tensor]:
    """120 inputs [4] in two classes."""
    generator = torch.Generator().manual_seed(3)
    classes = torch.arange(120) % 2
    return torch.randn(120, 4, generator=generator) + 1.5 * classes[:, None], classes


class Halves(Dataset[Any]):
    """Examples as dicts with labels, or as (dict, class)."""

    def __init__(self, inputs: Tensor, classes: Tensor, labelled: bool) -> None:
        self.inputs, self.classes, self.labelled = inputs, classes, labelled

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Any:
        halves = {"left": self.inputs[index, :2], "right": self.inputs[index, 2:].tolist()}
        return {**halves, "labels": int(self.classes[index])} if self.labelled else (halves, int(self.classes[index]))


def load(form: str) -> tuple[Any, Any]:
    """The same examples in one of several forms; 30 of them as test set."""
    inputs, classes = numbers()
    parts = [(inputs[:90], classes[:90]), (inputs[90:], classes[90:])]
    return _as_form(*parts[0], form), _as_form(*parts[1], form)


def _as_form(x: Tensor, y: Tensor, form: str) -> Any:
    match form:
        case "flat":
            return x, y
        case "dict":
            return {"left": x[:, :2], "right": x[:, 2:]}, y
        case "tuple":
            return (x[:, :2], [x[:, 2:]]), y
        case "dataset":
            return Halves(x, y, labelled=False)
        case "labelled":
            return Halves(x, y, labelled=True)
        case "nested_targets":
            return x, {"classes": y, "mask": y >= 0}
        case "no_targets":
            return x, None
    raise AssertionError(form)


@dataclass
class Output:
    """What a network returns that is no tensor."""

    logits: Tensor
    labels: Tensor | None


class Net(nn.Module):
    """Takes one tensor, its halves as keyword arguments, or its halves as a tuple."""

    def __init__(self, returns: str) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
        self.returns = returns

    def forward(
        self, inputs: Any = None, left: Tensor | None = None, right: Any = None, labels: Tensor | None = None
    ) -> Any:
        if isinstance(inputs, tuple):
            inputs = torch.cat([inputs[0], *inputs[1]], dim=1)
        elif left is not None:
            inputs = torch.cat([left, right], dim=1)
        logits = self.layers(inputs)
        return {"tensor": logits, "dict": {"logits": logits}, "object": Output(logits, labels)}[self.returns]


def make_net(num_classes: int, input_shape: Any, returns: str = "tensor") -> nn.Module:
    return Net(returns)


def make_autoencoder(num_classes: int, input_shape: Any) -> nn.Module:
    assert num_classes == 0
    return nn.Linear(input_shape[0], input_shape[0])


def reconstruction(outputs: Tensor, inputs: Tensor) -> Tensor:
    return (outputs - inputs).square().mean()


def loss_of_object(outputs: Output, targets: Tensor) -> Tensor:
    assert outputs.labels is not None
    return nn.functional.cross_entropy(outputs.logits, outputs.labels)


def masked_loss(outputs: Tensor, targets: dict[str, Tensor]) -> Tensor:
    assert targets["mask"].dtype == torch.bool
    losses = nn.functional.cross_entropy(outputs, targets["classes"], reduction="none")
    return torch.where(targets["mask"], losses, 0.0).mean()


def unlike() -> tuple[Any, Any]:
    """A test set of another form."""
    return load("dict")[0], load("flat")[0]


def text() -> tuple[Any, Any]:
    return ({"words": ["a", "b"]}, torch.zeros(2)), None


def of_two_lengths() -> tuple[Any, Any]:
    return ({"left": torch.zeros(4, 2), "right": torch.zeros(3, 2)}, torch.zeros(4)), None
