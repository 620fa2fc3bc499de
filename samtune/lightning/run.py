"""A LightningModule as a trial."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from math import ceil
from typing import Any

import torch
from torch import nn

from samtune.errors import UsageError
from samtune.lightning.epochs import CHECKPOINT, TrainerEpochs
from samtune.lightning.parts import parts_for
from samtune.train.trial_context import TrialContext
from samtune.train.trial_loader import TrialLoader

_OURS = ("accelerator", "devices", "num_nodes", "strategy", "precision", "max_epochs", "max_steps", "max_time")
"""What the trial says of a Trainer."""
_QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


def fit(
    trial: TrialContext,
    module: Any,
    train_dataloaders: Any = None,
    val_dataloaders: Any = None,
    *,
    datamodule: Any = None,
    own_optimizer: bool = False,
    steps_per_epoch: int | None = None,
    **options: Any,
) -> None:
    """Trains a LightningModule, from the trial's newest checkpoint on; the body of a training function.

        def train(trial):
            module = MyModule(**trial.config)
            samtune.lightning.fit(trial, module, trial.loader(train_set), trial.loader(val_set, train=False))

    Of each epoch, what the module has logged is reported, the mean over the workers, and `train_loss`, the mean of the
    loss at w. A scheduler ends the Trainer between two epochs; a checkpoint has all that one of Lightning's has, but
    hyperparameters.

    Args:
        module: a LightningModule with automatic optimization, or, with `own_optimizer`, any.
        train_dataloaders, val_dataloaders, datamodule: as of `Trainer.fit`. Lightning gives each worker its part of a
            DataLoader; `trial.loader` does so itself, and its order is that of the trial's seed.
        own_optimizer: the module's `configure_optimizers` is used, with what it reads from `trial.config`. Else the
            optimizer is `trial.optimizer`: method and base optimizer, schedule and radius of the configuration.
        steps_per_epoch: of each worker, where the loader does not tell; for the schedule of the configuration.
        options: of the Trainer: callbacks, gradient_clip_val, logger, … Its devices, strategy, precision and epochs
            are the trial's.

    Raises:
        UsageError: the module is no LightningModule, an option is the trial's, or the steps of an epoch are not known.
    """
    library = _library_of(module)
    if given := next((key for key in _OURS if key in options), None):
        raise UsageError(f"samtune.lightning.fit: {given} of the Trainer is the trial's: set it in the search space")
    module.to(trial.device)
    steps = None if own_optimizer else steps_per_epoch or _steps(trial, train_dataloaders, options)
    optimizer = None if steps is None else trial.optimizer(module, steps)
    epochs = TrainerEpochs(trial, module, optimizer, steps)
    if not epochs.begin():
        return
    parts = parts_for(library)
    with _silent(), _configured(module, optimizer):
        trainer = import_module(library).Trainer(
            accelerator="gpu" if trial.device.type == "cuda" else trial.device.type,
            devices=1,
            strategy=parts.strategy(epochs),
            plugins=[parts.environment(trial), *_listed(options.pop("plugins", None))],
            precision={"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[trial.precision],
            max_epochs=trial.num_epochs,
            callbacks=[*_listed(options.pop("callbacks", None)), parts.callback(epochs)],
            **{**_QUIET, **options},
        )
        trainer.fit(
            module,
            train_dataloaders,
            val_dataloaders,
            datamodule=datamodule,
            ckpt_path=CHECKPOINT if epochs.checkpoint else None,
        )


def _library_of(module: Any) -> str:
    """The package whose LightningModule it is: Lightning goes by two names, which do not take each other's."""
    bases = {base.__module__.partition(".")[0] for base in type(module).__mro__ if base.__name__ == "LightningModule"}
    if "pytorch_lightning" in bases:
        return "pytorch_lightning"
    if "lightning" in bases:
        return "lightning.pytorch"
    raise UsageError(f"samtune.lightning.fit: module must be a LightningModule (got {type(module).__name__})")


def _steps(trial: TrialContext, loader: Any, options: dict[str, Any]) -> int:
    """The batches of an epoch on each worker, with the sampler that Lightning gives a DataLoader."""
    if isinstance(loader, TrialLoader) or (trial.num_workers == 1 and hasattr(loader, "__len__")):
        return len(loader)
    if (
        isinstance(loader, torch.utils.data.DataLoader)
        and loader.batch_size
        and options.get("use_distributed_sampler", True)
    ):
        share = ceil(len(loader.dataset) / trial.num_workers)  # type: ignore[arg-type]
        return share // loader.batch_size if loader.drop_last else ceil(share / loader.batch_size)
    raise UsageError("samtune.lightning.fit: steps_per_epoch is needed: the loader does not tell the steps of a worker")


@contextmanager
def _silent() -> Iterator[None]:
    """Without Lightning's remarks on devices and checkpoints, in each trial; warnings are shown."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "pytorch_lightning")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _configured(module: nn.Module, optimizer: torch.optim.Optimizer | None) -> Iterator[None]:
    """The module with the trial's optimizer in place of its own."""
    if optimizer is None:
        yield
        return
    module.configure_optimizers = lambda: optimizer  # type: ignore[assignment]
    try:
        yield
    finally:
        del module.configure_optimizers


def _listed(value: Any) -> list[Any]:
    """An option of the Trainer that may be one or several."""
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
