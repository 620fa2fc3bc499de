"""How one trial is trained: the base optimizer, its schedule, and the precision."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from samtune.spec.base import Config


class TrainingConfig(Config):
    """The base optimizer and everything of the training loop that is not SAM.

    Weight decay is the base optimizer's, taken at w: it enters neither the ascent gradient nor ε̂.
    """

    epochs: Annotated[int, Field(ge=1)] = 20
    """Times the training set is gone through."""
    batch_size: Annotated[int, Field(ge=1)] = 128
    """Examples per step over all workers (the global batch)."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """The base optimizer, which takes the step at the restored weights."""
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1
    """Peak learning rate."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """SGD's momentum; AdamW's beta1."""
    nesterov: bool = False
    """Nesterov momentum (sgd only)."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0005
    """Weight decay of the base optimizer (decoupled with adamw)."""
    schedule: Literal["cosine", "linear", "multi_step", "constant"] = "cosine"
    """Learning rate after the warm-up, per step; multi_step multiplies by `decay_factor` at `milestones`."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    """Epochs over which the learning rate rises linearly from 0 (may be a fraction)."""
    milestones: list[Annotated[int, Field(ge=1)]] = Field(default_factory=list)
    """Epochs at which multi_step decays."""
    decay_factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """What multi_step multiplies the learning rate by."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target's probability spread over all classes."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of forward and backward: fp32, or autocast to bf16 / fp16 (weights stay fp32)."""
    clip_norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Largest 2-norm of the averaged gradient, after the all-reduce; none: no clipping."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise ValueError(
                "nesterov needs optimizer sgd and momentum > 0 "
                f"(optimizer is {self.optimizer}, momentum {self.momentum})"
            )
        if self.warmup_epochs > self.epochs:
            raise ValueError(
                f"warmup_epochs must not exceed epochs (warmup_epochs is {self.warmup_epochs}, epochs {self.epochs})"
            )
        if self.schedule == "multi_step" and not self.milestones:
            raise ValueError("schedule multi_step needs milestones, a list of epochs, e.g. [50, 100, 150]")
        if sorted(set(self.milestones)) != self.milestones:
            raise ValueError(f"milestones must rise (milestones is {self.milestones})")
        return self
