"""What a checkpoint of a training function holds."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from samtune.config.trial import TrialSpec
from samtune.sam.sharded_step import cut_optimizer_state, whole_optimizer_state
from samtune.train.arithmetic import Arithmetic, Capabilities, Precision
from samtune.train.checkpoint import Resumable
from samtune.train.plain_state import why_not_saved
from samtune.train.session import Place
from samtune.train.sharding import is_sharded_model, load_whole_model_state, whole_model_state


class TrainFunctionError(Exception):
    """A training function of the user's does not keep to what `TrialContext` asks of it."""


class UserConfig(dict[str, Any]):
    """The `config` section of a trial, which says so where it lacks a key."""

    def __missing__(self, key: str) -> Any:
        there = f"config has {', '.join(self)}" if self else "the space has no config section"
        raise TrainFunctionError(f"trial.config has no {key!r}: {there}")


class Stateful(Protocol):
    """What `trial.epochs` saves and resumes: a module, an optimizer, a scheduler."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state: Any) -> Any: ...


@runtime_checkable
class HasPrecision(Protocol):
    """A part whose forwards have the trial's precision."""

    def set_precision(self, precision: Precision) -> None: ...


class FunctionRun(Resumable):
    """The state of a trial that a training function trains; saved and resumed between epochs.

    Args:
        state: the user's own values, kept as they are.

    Attributes:
        parts: by name: everything with a state.
        has_begun: whether it is restored, after which nothing can be added to it.
        arithmetic: as the trial began; of it, a training function has the precision.
    """

    def __init__(self, spec: TrialSpec, place: Place, state: dict[str, Any]) -> None:
        self.spec, self.rank, self.num_workers, self.device = spec, place.rank, place.num_workers, place.device
        self.history: list[dict[str, float]] = []
        self.parts: dict[str, Stateful] = {}
        self.has_begun = False
        self.arithmetic = Arithmetic.chosen(spec.training, Capabilities.of(place.device))
        self._state = state

    def add(self, name: str, part: Any) -> None:
        """Saves and resumes a part too, unless it is known already; a name that is taken gets a number.

        Raises:
            TrainFunctionError: it has no state, or the trial has begun.
        """
        part = bare(part)
        if not (callable(getattr(part, "state_dict", None)) and callable(getattr(part, "load_state_dict", None))):
            kind = type(part).__name__
            raise TrainFunctionError(
                f"{self.spec.train}: {name} must have state_dict and load_state_dict (got {kind}); "
                "plain values are kept in trial.state"
            )
        if any(part is known or part is getattr(known, "optimizer", None) for known in self.parts.values()):
            return
        if self.has_begun:
            raise TrainFunctionError(
                f"{self.spec.train}: {name} must be made before trial.epochs() begins: a resume would not know it"
            )
        taken, number = name, 2
        while name in self.parts:
            name, number = f"{taken}{number}", number + 1
        self.parts[name] = part

    @property
    def model(self) -> nn.Module | None:
        """The first network among the parts: its weights are kept."""
        return next((part for part in self.parts.values() if isinstance(part, nn.Module)), None)

    @property
    def is_sharded(self) -> bool:
        return any(isinstance(part, nn.Module) and is_sharded_model(part) for part in self.parts.values())

    @property
    def steps_done(self) -> int:
        """It is saved between epochs only."""
        return 0

    def state_dict(self) -> dict[str, Any]:
        """As of `Resumable`.

        Raises:
            TrainFunctionError: something in it is no tensor, number or text.
        """
        parts = {name: _state_of(part) for name, part in self.parts.items()}
        for name, state in parts.items():
            self._check(state, name)
        self._check(self._state, "trial.state")
        arithmetic = self.arithmetic.state()
        return {"history": self.history, "parts": parts, "state": self._state, "arithmetic": arithmetic}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["parts"].keys() != self.parts.keys():
            before, now = ", ".join(state["parts"]), ", ".join(self.parts)
            raise TrainFunctionError(f"{self.spec.train} has saved {before}, and now has {now}: the code has changed")
        if "arithmetic" in state:
            self._go_on_with(self.arithmetic.resumed(self.spec.training, state["arithmetic"]))
        for name, part in self.parts.items():
            _load(part, state["parts"][name])
        self._state.clear()
        self._state.update(state["state"])
        self.history = state["history"]

    def _go_on_with(self, arithmetic: Arithmetic) -> None:
        if arithmetic.precision != self.arithmetic.precision:
            for part in self.parts.values():
                if isinstance(part, HasPrecision):
                    part.set_precision(arithmetic.precision)
        self.arithmetic = arithmetic

    def rank_state_dict(self) -> dict[str, Any]:
        """Between epochs no rank has a state of its own."""
        return {}

    def load_rank_state_dict(self, state: dict[str, Any]) -> None:
        """See `rank_state_dict`."""

    def share_of(self, states: list[dict[str, Any]]) -> dict[str, Any]:
        """See `rank_state_dict`."""
        return {}

    def save_weights(self, uri: str) -> None:
        """Those of the first network."""
        from samtune.models.saved import save_tensors

        if self.model is not None:
            save_tensors(uri, self.model, self.spec, metrics=self.history[-1], rank=self.rank)

    def _check(self, value: Any, where: str) -> None:
        if problem := why_not_saved(value, where):
            raise TrainFunctionError(f"{self.spec.train}: {problem}")


def bare(part: Any) -> Any:
    """A network without DistributedDataParallel around it."""
    return part.module if isinstance(part, nn.parallel.DistributedDataParallel) else part


def _state_of(part: Stateful) -> Any:
    """The state of a part, whole where it is of sharded weights. Then it is a collective."""
    if isinstance(part, nn.Module):
        return whole_model_state(part)
    if isinstance(part, torch.optim.Optimizer):
        return whole_optimizer_state(part)
    return part.state_dict()


def _load(part: Stateful, state: Any) -> None:
    if isinstance(part, nn.Module):
        load_whole_model_state(part, state)
    elif isinstance(part, torch.optim.Optimizer):
        part.load_state_dict(cut_optimizer_state(part, state))
    else:
        part.load_state_dict(state)
