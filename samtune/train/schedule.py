"""The learning rate at a step, as a pure function."""

from __future__ import annotations

import math

from samtune.config.training import TrainingConfig


def learning_rate(config: TrainingConfig, step: int, *, num_epochs: int, steps_per_epoch: int) -> float:
    """The learning rate of one step.

    Args:
        step: counted from 0 over the whole training.
        num_epochs: of the whole training.

    Returns:
        During the warm-up a linear rise that reaches `lr` at its end; then the schedule over the remaining steps:
        cosine `lr/2 (1 + cos πt)` and linear `lr (1 - t)` go to 0 at the end of training, t being the share done.
    """
    warmup = config.warmup_epochs * steps_per_epoch
    total = num_epochs * steps_per_epoch
    if step < warmup:
        return config.lr * min(1.0, (step + 1) / warmup)
    done = (step - warmup) / max(total - warmup, 1.0)
    match config.schedule:
        case "constant":
            return config.lr
        case "cosine":
            return config.lr * 0.5 * (1.0 + math.cos(math.pi * done))
        case "linear":
            return config.lr * (1.0 - done)
        case "multi_step":
            passed = sum(step >= milestone * steps_per_epoch for milestone in config.milestones)
            return config.lr * float(config.decay_factor**passed)
