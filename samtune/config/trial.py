"""What one trial is: everything its workers need to know to train it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from samtune.config.base import Config, FunctionPath
from samtune.config.data import DataConfig, NoDataConfig
from samtune.config.method import MethodConfig
from samtune.config.model import ModelConfig, NoModelConfig
from samtune.config.parallel import sharding_problem
from samtune.config.training import DEFAULT_EPOCHS, OWN_LOOP_ONLY, TrainingConfig
from samtune.sam.layout import GroupLayout
from samtune.study import Scalar

SECTIONS = ("data", "model", "method", "training", "config")
"""The sections of a trial; every key in them can be searched."""

OPEN_SECTION = "config"
"""The section whose keys are the user's: a training function reads them."""

LABEL_NOISE = "label_noise"
"""Folder in a study's, of a file for each `data_digest` that says which training labels were changed to what."""


def broken_rule(key: str, problem: str) -> PydanticCustomError:
    """A broken rule between keys, for validators of what holds them; the error names this dotted key."""
    return PydanticCustomError("space_rule", "{problem}", {"key": key, "problem": problem})


class LayoutError(ValueError):
    """A batch does not fit the workers. `key` is the dotted key of the value that does not."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(problem)
        self.key = key


class TrialSpec(Config):
    """One trial, resolved: no distribution is left. Its result is a function of this and the number of workers."""

    data: DataConfig = NoDataConfig()
    model: ModelConfig = NoModelConfig()
    method: MethodConfig
    training: TrainingConfig
    config: dict[str, Any] = Field(default_factory=dict)
    """What a training function reads, under keys of its own."""
    train: FunctionPath | None = None
    """The training function; none: samtune's own loop, on `data` and `model`."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seeds initialisation, data order, augmentation and all noise."""
    repeats: Annotated[int, Field(ge=1)] = 1
    """Runs with the seeds `seed`, `seed + 1`, …, whose metrics are averaged."""
    final: bool = False
    """Not a trial of a search: the test set is looked at once, after the last epoch, and the weights are kept."""

    @model_validator(mode="after")
    def _check_loop(self) -> Self:
        given = [key for key in ("data", "model") if not isinstance(getattr(self, key), NoDataConfig | NoModelConfig)]
        if self.train is None:
            if len(given) < 2:
                missing = "model" if "data" in given else "data"
                raise broken_rule(f"{missing}.name", f"no_{missing} is for a space with train, a training function")
            if self.config:
                raise broken_rule("config", f"needs train, a training function, which reads it (got {self.config})")
        elif given:
            got = getattr(self, given[0]).name
            raise broken_rule(given[0], f"{self.train} makes its own: leave {given[0]} out (got {got})")
        elif keys := self.training.of_own_loop:
            raise broken_rule(
                f"training.{keys[0]}",
                f"is for samtune's own loop; {self.train} does this itself: a key under config tells it",
            )
        return self

    @model_validator(mode="after")
    def _check_optimizer(self) -> Self:
        if self.method.name == "adamw" and self.training.optimizer_name != "adamw":
            got = self.training.optimizer_name
            raise broken_rule("method.name", f"adamw needs training.optimizer adamw (it is {got})")
        is_sgd, momentum = self.training.optimizer_name == "sgd", self.training.sgd_momentum
        if self.method.name == "momentum_sam" and not (is_sgd and momentum):
            raise broken_rule(
                "method.name",
                "momentum_sam needs training.optimizer sgd with momentum > 0 "
                f"(optimizer is {self.training.optimizer_name}, momentum {momentum})",
            )
        if getattr(self.method, "second_order", False) and any(g.rho_factor != 1 for g in self.training.groups):
            raise broken_rule("training.groups", "cannot have a rho_factor with method.second_order")
        if self.training.compile and getattr(self.method, "second_order", False):
            raise broken_rule("training.compile", "must be off with method.second_order, which differentiates twice")
        return self

    @model_validator(mode="after")
    def _check_parallel(self) -> Self:
        if self.training.parallel == "fsdp" and (found := sharding_problem(self.method, self.training)):
            raise broken_rule(*found)
        return self

    @model_validator(mode="after")
    def _check_length(self) -> Self:
        training = self.training
        if self.num_epochs < 1:
            problem = f"must hold an epoch of {self.method.name}, which costs {self.passes_per_epoch:g} passes"
            each = f", in each of {self.num_trainings} trainings" if training.bootstrap else ""
            raise broken_rule("training.passes", f"{problem}{each} (got {training.passes:g})")
        if training.warmup_epochs > self.epochs_per_training:
            problem = "warmup_epochs must not exceed epochs"
            got = f"(warmup_epochs is {training.warmup_epochs}, epochs {self.epochs_per_training})"
            raise broken_rule("training", f"{problem} {got}")
        return self

    @model_validator(mode="after")
    def _check_folds(self) -> Self:
        folds = self.data.folds
        if folds is not None and self.train is not None:
            raise broken_rule(
                "data.folds", f"is for samtune's own loop; {self.train} splits its own data (got {folds})"
            )
        if folds is not None and self.data.validation_fraction == 0:
            raise broken_rule("data.folds", f"needs validation_fraction > 0: 0 trains on all examples (got {folds})")
        if folds is not None and self.repeats > 1:
            raise broken_rule("data.folds", f"trains {folds} networks; repeats must be 1 (it is {self.repeats})")
        return self

    @property
    def num_models(self) -> int:
        """Networks that are trained side by side, whose metrics are averaged: repeats, or folds."""
        return self.data.folds or self.repeats

    @property
    def num_epochs(self) -> int:
        """Epochs of the whole trial, all its trainings together (`training.bootstrap`)."""
        return self.epochs_per_training * self.num_trainings

    @property
    def num_trainings(self) -> int:
        """From scratch, one after another: 1 without bootstrap."""
        return self.training.bootstrap + 1

    @property
    def epochs_per_training(self) -> int:
        """As given, or as many whole ones as each training's share of `training.passes` pays for.

        With `training.steps` evaluations are what epochs are else.
        """
        if self.training.steps is not None and self.training.evaluation_interval is not None:
            return math.ceil(self.training.steps / self.training.evaluation_interval)
        if self.training.passes is None:
            return self.training.epochs or DEFAULT_EPOCHS
        passes = self.training.passes / self.num_trainings
        return math.floor(passes / self.passes_per_epoch + 1e-9)  # 12 / 1.2 passes are 10 epochs

    @property
    def passes_per_step(self) -> float:
        """Forward+backward passes of the whole batch per step (SGD 1, SAM 2)."""
        return self.method.passes_per_step

    @property
    def passes_per_epoch(self) -> float:
        """Passes over the training set that an epoch costs."""
        return self.passes_per_step

    @property
    def num_passes(self) -> float:
        """Passes over the training set that the whole trial costs, all its repeats or folds together."""
        each: float = self.epochs_per_training
        if self.training.steps is not None and self.training.evaluation_interval is not None:
            each = self.training.steps / self.training.evaluation_interval  # the last may come after fewer steps
        return self.passes_per_epoch * each * self.num_trainings * self.num_models

    def layout(self, num_workers: int, rank: int = 0) -> GroupLayout:
        """How the batch is split into workers and m-groups.

        Raises:
            LayoutError: the workers do not divide the batch, or m does not fit.
        """
        batch = self.training.batch_size // self.training.accumulate
        m: Any = getattr(self.method, "m", "worker")
        try:
            layout = GroupLayout.resolve("worker", batch_size=batch, num_workers=num_workers, rank=rank)
        except ValueError as error:
            raise LayoutError("training.batch_size", str(error)) from None
        try:
            return (
                layout
                if m == "worker"
                else GroupLayout.resolve(m, batch_size=batch, num_workers=num_workers, rank=rank)
            )
        except ValueError as error:
            raise LayoutError("method.m", str(error)) from None

    @property
    def examples(self) -> DataConfig:
        """`data`, with the label noise's seed as a number."""
        if self.data.label_noise_seed != "trial":
            return self.data
        return self.data.model_copy(update={"label_noise_seed": self.seed})

    def located(self, folder: str) -> Self:
        """This trial with the relative paths of its data set and its weights made absolute: they are in `folder`."""
        return self.with_paths(lambda path: str(Path(folder, Path(path).expanduser())))

    def with_paths(self, change: Callable[[str], str]) -> Self:
        """This trial with the paths of its data set and its weights changed; URIs stay as they are."""
        changes = {}
        for section, fields in (("data", ("root", "relabel")), ("model", ("weights",))):
            config = getattr(self, section)
            paths = {field: path for field in fields if isinstance(path := getattr(config, field, None), str)}
            own = {field: change(path) for field, path in paths.items() if "://" not in path}
            changes[section] = config.model_copy(update=own)
        return self.model_copy(update=changes)

    @property
    def evaluates_test(self) -> bool:
        """Whether the test set takes the place of a validation set: the trial is of a confirmation."""
        return self.data.validation_fraction == 0

    def params(self) -> dict[str, Scalar]:
        """Every key, flat and dotted, typed the same in each trial (MLflow's parameters)."""
        unused = {"data", "model"} if self.train is not None else {"train", "config"}
        params = flatten(self.model_dump(exclude=unused)) | {
            "training.epochs": self.epochs_per_training,
            "training.evaluate_every": self.training.evaluation_interval,
        }
        return params if self.train is None else {k: v for k, v in params.items() if not _is_of_own_loop(k)}


def _is_of_own_loop(key: str) -> bool:
    section, _, field = key.partition(".")
    return section == "training" and field.partition(".")[0] in OWN_LOOP_ONLY


def data_digest(params: Mapping[str, Scalar]) -> str:
    """8 hex digits, the same for the same examples and labels.

    Args:
        params: as of `TrialSpec.params`.
    """
    settings = {key: value for key, value in params.items() if key.startswith("data.")}
    if settings.get("data.label_noise_seed") == "trial":
        settings["seed"] = params["seed"]
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Scalar]:
    """`{"a": {"b": 1}}` -> `{"a.b": 1}`; lists become text."""
    flat: dict[str, Scalar] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            flat[f"{prefix}{key}"] = ", ".join(str(item) for item in value)
        else:
            flat[f"{prefix}{key}"] = value
    return flat
