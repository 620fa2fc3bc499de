"""What cannot be trained where `training.parallel: fsdp` has each worker hold a part of the weights."""

from __future__ import annotations

from typing import Any

from samtune.config.method_base import BaseOptimizerConfig
from samtune.config.own_method import OwnMethodConfig
from samtune.config.training import TrainingConfig


def sharding_problem(method: Any, training: TrainingConfig) -> tuple[str, str] | None:
    """The first key that does not go with sharded weights, and why; None where all do.

    Args:
        method: a `MethodConfig`.
    """
    with_fsdp = "with training.parallel fsdp"
    if isinstance(method, OwnMethodConfig):
        return "method.name", f"cannot be a rule of your own {with_fsdp}: its norms would be those of a worker's part"
    if not isinstance(method, BaseOptimizerConfig):
        if (m := getattr(method, "m", "worker")) != "global":
            return (
                "method.m",
                f"must be global {with_fsdp}, whose gradients are the mean over the workers, and no m-group's own "
                f"(got {m})",
            )
        if getattr(method, "p", 2.0) == 1:
            return "method.p", f"must be above 1 {with_fsdp} (got 1)"
        if getattr(method, "second_order", False):
            return "method.second_order", f"must be off {with_fsdp}, which has no second derivative"
        directions = getattr(method, "directions", [])
        own = [each for each in ([directions] if isinstance(directions, str) else directions) if ":" in each]
        if own:
            return "method.directions", f"cannot be your own {with_fsdp}: they would be drawn for a part (got {own[0]})"
    if training.optimizer_name in WHOLE_STATE:
        return "training.optimizer", f"{training.optimizer_name} does not work on parts of the weights, {with_fsdp}"
    if training.diagnostics is not None:
        return "training.diagnostics", f"needs whole gradients, which there are none of {with_fsdp}"
    for key in ("compile", "channels_last"):
        if getattr(training, key) is True:
            return f"training.{key}", f"must be off {with_fsdp}"
    return None


WHOLE_STATE = ("adafactor", "muon")
"""Optimizers by name that look at a whole matrix."""
