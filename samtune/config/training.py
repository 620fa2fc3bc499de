"""How one trial is trained: the base optimizer, its schedule, and the precision."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, Field, model_validator

from samtune.config.base import Config, ImportPath
from samtune.config.diagnostics import DiagnosticsConfig
from samtune.config.optimizer import Optimizer, OptimizerConfig, ParameterGroupConfig

DEFAULT_EPOCHS = 20


Loss = Literal["cross_entropy", "mse", "l1", "huber", "bce_with_logits"]
LOSSES: tuple[str, ...] = get_args(Loss)
Metric = Literal["accuracy", "top5_accuracy", "mae", "rmse", "r2"]
METRICS_BY_NAME: tuple[str, ...] = get_args(Metric)
OF_CLASSES = ("cross_entropy", "accuracy", "top5_accuracy")
"""Losses and metrics by name whose targets are classes; those of the others are numbers."""


def metric_name(path: str) -> str:
    """What a metric is logged as, after `val_`: its name, or the user's function's."""
    return path.partition(":")[2] or path


def _told_apart(paths: list[str]) -> list[str]:
    taken = ["loss", "accuracy"]
    for path in paths:
        name = metric_name(path)
        if path == "accuracy":
            continue  # measured anyway
        if name in taken:
            raise ValueError(f"a metric is logged under its function's name, and {name} is taken (got {path})")
        taken.append(name)
    return paths


LENGTHS = ("epochs", "passes", "steps")
"""Keys of `TrainingConfig` that say how long a training is: one of them is given, or none."""

OWN_LOOP_ONLY = (
    "steps",
    "evaluate_every",
    "loss",
    "metrics",
    "label_smoothing",
    "accumulate",
    "ema",
    "compile",
    "channels_last",
    "tf32",
    "evaluation_batch",
    "diagnostics",
    "bootstrap",
)
"""Keys of `TrainingConfig` that samtune's own loop alone reads: a training function does these things itself."""


class TrainingConfig(Config):
    """The base optimizer and everything of the training loop that is not SAM.

    Weight decay is the base optimizer's, taken at w: it enters neither the ascent gradient nor ε̂.
    """

    epochs: Annotated[int, Field(ge=1)] | None = None
    """Times the training set is gone through; none: 20, unless `passes` says how many."""
    passes: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Instead of `epochs`: forwards and backwards of the training set that a trial may cost, so that methods are
    compared at equal cost. SGD makes one in an epoch, SAM two, and so on; what is left of an epoch is not trained."""
    steps: Annotated[int, Field(ge=1)] | None = None
    """Instead of `epochs`: steps of a training, which need not be whole passes over the training set. Data that are an
    iterable need it. Everything that counts epochs then counts evaluations (schedulers, checkpoints, `warmup_epochs`,
    `milestones`), and a pass is over the examples of as many steps as lie between two."""
    evaluate_every: Annotated[int, Field(ge=1)] | None = None
    """With `steps`: steps from one evaluation to the next, at most `steps`; the last evaluation is after the last step.
    None: a twentieth of `steps`. Give it where `steps` is searched, so that trials are compared at equal steps."""
    bootstrap: Annotated[int, Field(ge=0)] = 0
    """For noisy labels: trainings before the one that counts. After each, the training labels are replaced by what its
    network predicts, and a new network is trained from scratch (Foret et al. 2021, section 3.3). Each takes `epochs`;
    of `passes`, which are the whole trial's, each takes its share."""
    batch_size: Annotated[int, Field(ge=1)] = 128
    """Examples per step over all workers (the global batch)."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Parts in which a batch is run, one after another, where it does not fit into memory. The step is the same but for
    what goes by a worker's examples of one part: `m: worker`, and BatchNorm."""
    optimizer: Optimizer = "sgd"
    """The base optimizer, which takes the step at the restored weights: one of torch's by name, or a class of yours
    as `package.module:class`; with options of its own as `{name: adamw, betas: [0.9, 0.95]}`."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """How the workers of a trial share its network: ddp, each has all of it; fsdp, each has a part of every block's
    weights and of the optimizer's state (`fully_shard`), for networks that do not fit otherwise. Wants `m: global`."""
    m_groups: Literal["auto", "loop", "vectorized"] = "loop"
    """How a worker's m-groups of a step run, where `m` makes several: loop, one after another; vectorized, side by side
    in one pass wherever that is exact; auto: that if a trial on the first batch shows it to be clearly faster, as it is
    for small networks. The results agree to rounding; with auto, a timing decides which of the two roundings it is."""
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1
    """Peak learning rate."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """SGD's momentum; AdamW's beta1. Other optimizers have options of their own."""
    nesterov: bool = False
    """Nesterov momentum (sgd only)."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0005
    """Weight decay of the base optimizer (decoupled with adamw)."""
    decay_norms_and_biases: bool = True
    """Whether weight decay acts on the scales and shifts of normalisation layers and on biases too."""
    groups: list[ParameterGroupConfig] = Field(default_factory=list)
    """Groups of parameters with settings of their own, e.g.
    `[{match: "head.*", lr_factor: 10}, {match: "norm|bias", weight_decay: 0, rho_factor: 0}]`."""
    schedule: Literal["cosine", "linear", "multi_step", "constant"] = "cosine"
    """Learning rate after the warm-up, per step; multi_step multiplies by `decay_factor` at `milestones`."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    """Epochs over which the learning rate rises linearly from 0 (may be a fraction)."""
    milestones: list[Annotated[int, Field(ge=1)]] = Field(default_factory=list)
    """Epochs at which multi_step decays."""
    decay_factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """What multi_step multiplies the learning rate by."""
    loss: Loss | ImportPath = "cross_entropy"
    """What is minimised: cross_entropy for classes; mse, l1, huber or bce_with_logits (several labels) for targets that
    are numbers, the mean over all of them; one's own as `package.module:function`, (outputs, targets) -> mean over
    the examples."""
    metrics: Annotated[list[Metric | ImportPath], AfterValidator(_told_apart)] = Field(default_factory=list)
    """More measures of an evaluation: top5_accuracy of classes; mae, rmse, r2 of numbers; one's own as
    `package.module:function`, (outputs, targets) -> mean over the examples, or `package.module:object`, an object of
    torchmetrics, which has a state over the evaluation; logged as val_NAME."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target's probability spread over all classes."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of forward and backward: fp32, or autocast to bf16 / fp16 (weights stay fp32); auto: bf16 on an NVIDIA
    card that has it (compute capability 8 and up), else fp32."""
    tf32: Literal["auto"] | bool = "auto"
    """Whether an NVIDIA card may round the inputs of what is left in fp32 (products, convolutions) to TF32, 10 bits of
    mantissa; auto: where it has it. No effect elsewhere."""
    clip_norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Largest 2-norm of the averaged gradient, after the all-reduce; none: no clipping."""
    ema: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Evaluate (and keep) the exponential moving average of the weights with this decay per step; none: the weights."""
    compile: bool = False
    """Compile the network with torch.compile: faster steps after slow first ones (each m-group of a worker's batch is
    compiled apart). Wants a C++ compiler on a CPU."""
    channels_last: Literal["auto"] | bool = "auto"
    """Keep images and convolutions in channels-last order; auto: where it is faster, for networks with convolutions on
    cards with tensor cores (compute capability 7 and up) and, without code of your own, on CPUs with oneDNN."""
    evaluation_batch: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Examples per worker and forward of an evaluation; auto: 1024, halved for the rest of the trial where the memory
    does not suffice."""
    diagnostics: DiagnosticsConfig | None = None
    """Measures of sharpness during training, e.g. `{lambda_max: 10, m_sharpness: 1}`, in epochs; none: not taken."""

    @property
    def evaluation_interval(self) -> int | None:
        """Steps from one evaluation to the next; None: those of an epoch."""
        return None if self.steps is None else self.evaluate_every or math.ceil(self.steps / DEFAULT_EPOCHS)

    @property
    def of_own_loop(self) -> list[str]:
        """The keys of `OWN_LOOP_ONLY` that are not at their defaults."""
        fields = type(self).model_fields
        return [
            key for key in OWN_LOOP_ONLY if getattr(self, key) != fields[key].get_default(call_default_factory=True)
        ]

    @property
    def of_numbers(self) -> bool:
        """Whether the loss is one by name whose targets are numbers; then no accuracy is measured."""
        return self.loss in LOSSES and self.loss not in OF_CLASSES

    @property
    def optimizer_name(self) -> str:
        """`sgd`, `adamw`, … or an import path."""
        return self.optimizer.name if isinstance(self.optimizer, OptimizerConfig) else self.optimizer

    @property
    def optimizer_options(self) -> dict[str, Any]:
        """The optimizer's own options, as they are written."""
        return self.optimizer.options if isinstance(self.optimizer, OptimizerConfig) else {}

    @property
    def sgd_momentum(self) -> float:
        """SGD's momentum, which may stand among its options."""
        return float(self.optimizer_options.get("momentum", self.momentum))

    def _check_length(self) -> None:
        given = {key: value for key in LENGTHS if (value := getattr(self, key)) is not None}
        if len(given) > 1:
            (one, its), (other, value), *_ = given.items()
            raise ValueError(f"give {one} or {other}, not both ({one} is {its:g}, {other} {value:g})")
        if self.evaluate_every is not None and self.evaluate_every > (self.steps or 0):
            got = "none is given" if self.steps is None else f"steps is {self.steps}"
            raise ValueError(f"evaluate_every must not exceed steps (evaluate_every is {self.evaluate_every}, {got})")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.nesterov and (self.optimizer_name != "sgd" or self.sgd_momentum == 0):
            raise ValueError(
                "nesterov needs optimizer sgd and momentum > 0 "
                f"(optimizer is {self.optimizer_name}, momentum {self.momentum})"
            )
        self._check_length()
        if self.bootstrap and self.of_numbers:
            raise ValueError(f"bootstrap needs targets that are classes (loss is {self.loss})")
        if self.label_smoothing and self.loss != "cross_entropy":
            raise ValueError(f"label_smoothing needs loss cross_entropy (loss is {self.loss})")
        for metric in self.metrics:
            by_name = self.loss in LOSSES and metric in METRICS_BY_NAME
            if by_name and (metric in OF_CLASSES) == self.of_numbers:
                raise ValueError(f"metrics: {metric} does not suit the targets of loss {self.loss}")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate must divide batch_size (accumulate is {self.accumulate}, batch_size {self.batch_size})"
            )
        if self.schedule == "multi_step" and not self.milestones:
            raise ValueError("schedule multi_step needs milestones, a list of epochs, e.g. [50, 100, 150]")
        if sorted(set(self.milestones)) != self.milestones:
            raise ValueError(f"milestones must rise (milestones is {self.milestones})")
        return self
