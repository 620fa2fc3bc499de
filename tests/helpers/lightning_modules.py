"""LightningModules and the training functions that run them: a module that ranks and workers import."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from helpers.train_functions import accuracy, make_data, make_model
from samtune import TrialContext
from samtune.lightning import fit
from samtune.sam import SAM


class Module(lightning.LightningModule):
    """With dropout and BatchNorm, an optimizer and schedules of its own, and what a resume must not lose."""

    def __init__(self, width: int, rho: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = make_model(width)
        self.seen: list[tuple[int, int]] = []

    def training_step(self, batch: Any, index: int) -> Tensor:
        inputs, targets = batch
        if index == 0:
            self.seen.append((self.current_epoch, self.global_step))
        return cross_entropy(self.net(inputs + 0.1 * torch.randn_like(inputs)), targets)

    def validation_step(self, batch: Any, index: int) -> None:
        inputs, targets = batch
        outputs = self.net(inputs)
        self.log_dict({"val_loss": cross_entropy(outputs, targets), "val_accuracy": accuracy(outputs, targets)})

    def configure_optimizers(self) -> Any:
        optimizer = SAM(self.parameters(), torch.optim.SGD, rho=self.hparams.rho, lr=0.1, momentum=0.9)
        by_epoch = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": by_epoch, "interval": "epoch"}}


class Counting(lightning.Callback):
    """With a state, and what it sees of the optimizer."""

    def __init__(self) -> None:
        self.epochs, self.rates = 0, list[float]()

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        self.epochs += 1
        module.log("counted", float(self.epochs))

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": self.epochs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epochs = state["epochs"]


LAST: list[Any] = []
"""Module and callback of the last trial of this process."""


def with_the_trial_s(trial: TrialContext, own_optimizer: bool = False, **options: Any) -> None:
    train, held_out = make_data()
    module, counting = Module(trial.config["width"]), Counting()
    LAST[:] = [module, counting]
    loaders = trial.loader(train), trial.loader(held_out, train=False)
    fit(trial, module, *loaders, own_optimizer=own_optimizer, callbacks=[counting], **options)


def with_its_own(trial: TrialContext) -> None:
    with_the_trial_s(trial, own_optimizer=True)


def with_lightning_s_loaders(trial: TrialContext) -> None:
    train, held_out = make_data()
    size = 20 // trial.num_workers
    fit(trial, Module(8), DataLoader(train, size, shuffle=True), DataLoader(held_out, size))


class Plain(lightning.LightningModule):
    """The network of `plain_step`, nothing random."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))

    def training_step(self, batch: Any, index: int) -> Tensor:
        return cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, index: int) -> None:
        self.log("val_accuracy", cross_entropy(self.net(batch[0]), batch[1]))


def plain(trial: TrialContext) -> None:
    loader = trial.loader(make_data()[0])
    fit(trial, Plain(), loader, loader)


def takes_devices(trial: TrialContext) -> None:
    with_the_trial_s(trial, devices=2)


def takes_fewer_steps(trial: TrialContext) -> None:
    with_the_trial_s(trial, limit_train_batches=3)


class FrozenInPart(Plain):
    """Whose first layer the user has put into evaluation mode, and which says in what it computes."""

    def training_step(self, batch: Any, index: int) -> Tensor:
        outputs = self.net(batch[0])
        self.log_dict({"is_bf16": float(outputs.dtype == torch.bfloat16), "is_frozen": float(not self.net[0].training)})
        return cross_entropy(outputs, batch[1])


def frozen_in_part(trial: TrialContext) -> None:
    loader, module = trial.loader(make_data()[0]), FrozenInPart()
    module.net[0].eval()
    fit(trial, module, loader, loader)


def takes_a_stream(trial: TrialContext) -> None:
    fit(trial, Plain(), iter([]))


def takes_a_network(trial: TrialContext) -> None:
    fit(trial, make_model(2), trial.loader(make_data()[0]))


def ends_by_itself(trial: TrialContext) -> None:
    early = lightning.pytorch.callbacks.EarlyStopping("val_accuracy", patience=1, min_delta=2.0)
    train, held_out = make_data()
    fit(trial, Module(8), trial.loader(train), trial.loader(held_out, train=False), callbacks=early)
