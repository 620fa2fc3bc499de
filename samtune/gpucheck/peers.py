"""What samtune's step is timed against: the limit that no SAM can beat, and other SAMs that are installed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any

import torch
from torch import Tensor, nn

PEERS = ("pytorch_optimizer:SAM",)
"""Other implementations with the face of davda54/sam, looked for where they are installed; `--peer` names more."""


@dataclass(frozen=True)
class Problem:
    """A model and a batch, on their device."""

    model: nn.Module
    inputs: Tensor
    targets: Tensor
    autocast: Callable[[], AbstractContextManager[Any]]
    """The precision of a forward."""

    def backward(self) -> Tensor:
        """Adds the loss's gradient to `.grad`."""
        with self.autocast():
            loss = nn.functional.cross_entropy(self.model(self.inputs), self.targets)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss


def limit_step(problem: Problem, optimizer: torch.optim.Optimizer, passes: int = 2) -> Callable[[], None]:
    """Forwards and backwards of the batch, then one step of the base optimizer, and nothing else."""

    def step() -> None:
        for _ in range(passes):
            optimizer.zero_grad()
            problem.backward()
        optimizer.step()

    return step


def peer_step(problem: Problem, path: str, sgd_options: dict[str, Any]) -> Callable[[], None]:
    """Another SAM: Class(params, base_optimizer, rho=…, **options) with first_step and second_step."""
    optimizer = resolve_name(path)(problem.model.parameters(), torch.optim.SGD, rho=0.05, **sgd_options)

    def step() -> None:
        for finish in (optimizer.first_step, optimizer.second_step):
            problem.backward()
            finish(zero_grad=True)

    return step


def installed_peers(say: Callable[[str], None] = lambda line: None) -> list[str]:
    """Import paths of the known other implementations that are installed here.

    Args:
        say: called with a line about each that is not.
    """
    found = []
    for path in PEERS:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                resolve_name(path)
            found.append(path)
        except (ImportError, AttributeError) as error:
            say(f"{path.partition(':')[0]} left out: {error}")
    return found
