"""What cannot be trained where `training.parallel: fsdp` has each worker hold a part of the weights."""

from __future__ import annotations

from typing import Any

from samtune.config.method_base import BaseOptimizerConfig
from samtune.config.own_method import OwnMethodConfig
from samtune.config.training import TrainingConfig

NOT_IN_PARTS = ("adafactor", "muon", "rprop")
"""Of `TORCH_OPTIMIZERS`. The others agree with whole weights to 1e-15 after 5 steps (two ranks, float64, torch 2.14).
Muon's weights came out 0.004 apart at a learning rate of 0.01; torch has no rule for operations of Adafactor, Rprop."""


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
    if training.optimizer_name in NOT_IN_PARTS:
        return (
            "training.optimizer",
            f"cannot be {training.optimizer_name} {with_fsdp}: on parts of the weights it fails or gives other results",
        )
    if training.diagnostics is not None:
        return "training.diagnostics", f"needs whole gradients, which there are none of {with_fsdp}"
    for key in ("compile", "channels_last"):
        if getattr(training, key) is True:
            return f"training.{key}", f"must be off {with_fsdp}"
    return None
