"""What a researcher writes in an afternoon: Optuna, two processes, and SAM by hand in a loop. A contestant of `plain`.

The network, the split, the batches' size, the schedule and the three searched keys are those of `digits.yaml`, and m is
the batch.
"""

from __future__ import annotations

import math

import numpy as np
import optuna
import torch
from optuna.storages.journal import JournalFileBackend
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from samtune.models.digits_cnn import DigitsCnn

BATCH_SIZE = 64


def load_data() -> tuple[TensorDataset, Tensor, Tensor]:
    """The training set, and the images and labels of the validation set; a test set is held out as well."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    images, _, labels, _ = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=0)
    train_x, val_x, train_y, val_y = train_test_split(images, labels, test_size=0.1, stratify=labels, random_state=0)
    train = TensorDataset(torch.from_numpy(train_x), torch.from_numpy(train_y))
    return train, torch.from_numpy(val_x), torch.from_numpy(val_y)


def objective(trial: optuna.Trial, data: tuple[TensorDataset, Tensor, Tensor], epochs: int) -> float:
    """Trains one configuration; its validation accuracy."""
    rho = trial.suggest_float("rho", 0.01, 0.5, log=True)
    lr = trial.suggest_float("lr", 0.01, 0.5, log=True)
    weight_decay = trial.suggest_float("weight_decay", 1e-5, 1e-2, log=True)
    train, val_x, val_y = data
    torch.manual_seed(0)
    model = DigitsCnn(16, 10, (1, 8, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=weight_decay)
    loader = DataLoader(train, batch_size=BATCH_SIZE, shuffle=True, drop_last=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))
    accuracy = math.nan
    for _ in range(epochs):
        model.train()
        for inputs, targets in loader:
            sam_step(model, optimizer, inputs, targets, rho)
            schedule.step()
        model.eval()
        with torch.no_grad():
            accuracy = float((model(val_x).argmax(dim=1) == val_y).float().mean())
    return accuracy


def sam_step(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, targets: Tensor, rho: float
) -> None:
    """One step of SAM as its many short implementations write it."""
    cross_entropy(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
    parameters = [p for p in model.parameters() if p.grad is not None]
    with torch.no_grad():
        norm = torch.stack([p.grad.norm() for p in parameters]).norm()  # type: ignore[union-attr]
        moves = [p.grad * (rho / (norm + 1e-12)) for p in parameters]
        for parameter, move in zip(parameters, moves, strict=True):
            parameter.add_(move)
    optimizer.zero_grad()
    cross_entropy(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for parameter, move in zip(parameters, moves, strict=True):
            parameter.sub_(move)
    optimizer.step()
    optimizer.zero_grad()


def search(journal: str, num_trials: int, epochs: int) -> None:
    """What each process does: runs trials until the study, which other processes share, has so many."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name="plain",
        storage=optuna.storages.JournalStorage(JournalFileBackend(journal)),
        sampler=optuna.samplers.TPESampler(n_startup_trials=6),
        direction="maximize",
        load_if_exists=True,
    )
    data = load_data()
    states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.RUNNING)
    enough = optuna.study.MaxTrialsCallback(num_trials, states=states)
    study.optimize(lambda trial: objective(trial, data, epochs), callbacks=[enough])
