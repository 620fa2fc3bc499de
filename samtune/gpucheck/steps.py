"""What is timed: samtune's steps, the limit that no SAM can beat, and other SAMs that are installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from samtune.accelerator import use_tf32
from samtune.gpucheck.networks import Network
from samtune.gpucheck.peers import Problem, limit_step, peer_step
from samtune.sam.method import Method
from samtune.sam.rules.base import Rule
from samtune.sam.rules.sam import SAMRule
from samtune.sam.train_step import TrainStep

Step = Callable[[], object]
LIMIT = "limit (2 passes + step)"


@dataclass(frozen=True)
class Setting:
    """What all contestants share."""

    network: Network
    batch_size: int
    precision: str
    device: torch.device

    @property
    def name(self) -> str:
        """In the table."""
        return f"{self.network.name}, {self.precision}, batch {self.batch_size}"

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of a forward."""
        is_bf16 = self.precision == "bf16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if is_bf16 else nullcontext()

    def problem(self) -> Problem:
        """A fresh network, and a batch for it."""
        model = self.network.build(self.device)
        return Problem(model, *self.network.batch(self.batch_size, self.device), self.autocast)

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """TF32 as the setting says, and convolutions chosen by trying: the shapes do not change."""
        before = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = True
        try:
            with use_tf32(self.precision == "tf32"):
                yield
        finally:
            torch.backends.cudnn.benchmark = before

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The base optimizer that all take their step with."""
        return torch.optim.SGD(model.parameters(), **self.sgd_options)

    @property
    def sgd_options(self) -> dict[str, Any]:
        return {"lr": 1e-4, "momentum": 0.9, "weight_decay": 5e-4, "fused": self.device.type == "cuda"}


class Still:
    """In place of the step's random numbers: the networks here draw none, and a graph cannot record a seeding."""

    def borrowed(self) -> AbstractContextManager[None]:
        return nullcontext()

    def state(self) -> list[torch.Tensor]:
        return []

    def set_state(self, state: list[torch.Tensor]) -> None:
        pass

    def use_true_gradient(self, on: bool) -> None:
        pass

    def seed(self, *key: int | str) -> None:
        pass


def limit(setting: Setting, passes: int = 2) -> Step:
    """Forwards and backwards of the batch, then one step of SGD, and nothing else."""
    problem = setting.problem()
    return limit_step(problem, setting.optimizer(problem.model), passes)


def train_step(setting: Setting, rule: type[Rule] = SAMRule, groups: int = 1, *, compiled: bool = False) -> Step:
    """samtune's `TrainStep`, with m = batch / groups."""
    step = _make_step(setting, rule, groups, compiled=compiled)
    inputs, targets = setting.network.batch(setting.batch_size, setting.device)
    return lambda: step(inputs, targets)


def graphed(setting: Setting, groups: int = 1, warm_up: int = 3) -> Step:
    """The whole step recorded as one CUDA graph, and replayed.

    Raises:
        RuntimeError: something in the step cannot be recorded.
    """
    step = _make_step(setting, SAMRule, groups)
    step.noise = Still()  # type: ignore[assignment]
    inputs, targets = setting.network.batch(setting.batch_size, setting.device)
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(warm_up):
            step(inputs, targets)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(inputs, targets)
    return graph.replay


def _make_step(setting: Setting, rule: type[Rule], groups: int, *, compiled: bool = False) -> TrainStep:
    model = setting.network.build(setting.device)
    precision: Literal["bf16", "fp32"] = "bf16" if setting.precision == "bf16" else "fp32"
    method = Method(rule, rho=0.05, m=setting.batch_size // groups)
    step = TrainStep(
        model,
        nn.CrossEntropyLoss(),
        setting.optimizer(model),
        method,
        batch_size=setting.batch_size,
        precision=precision,
    )
    if compiled:
        model.compile()
    return step


def peer(setting: Setting, path: str) -> Step:
    """Another SAM, by its import path."""
    return peer_step(setting.problem(), path, setting.sgd_options)


def contestants(setting: Setting, peers: list[str]) -> dict[str, Callable[[], Step]]:
    """How each is made, by the name in the table; the limit first."""
    steps: dict[str, Callable[[], Step]] = {
        LIMIT: lambda: limit(setting),
        "SGD": lambda: train_step(setting, Rule),
        "SAM m=b": lambda: train_step(setting),
        "SAM m=b/4": lambda: train_step(setting, groups=4),
        "SAM m=b/8": lambda: train_step(setting, groups=8),
    }
    return steps | {path: lambda path=path: peer(setting, path) for path in peers}
