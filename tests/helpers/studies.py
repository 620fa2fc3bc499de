"""Finished studies as their journals hold them, without training: a small synthetic response surface."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from samtune.config.space import SearchSpace
from samtune.experiments.candidates import CandidateList, final, list_candidates
from samtune.experiments.results import Results
from samtune.store.checksums import to_line
from samtune.store.journal import FILE_NAME, Journal
from samtune.study import CANDIDATE, REPLICA, EpochRecord, Objective, Scalar, Study, Trial, TrialState

SPACE: dict[str, Any] = {
    "name": "digits",
    "data": {"name": "digits"},
    "model": {"name": "digits_cnn"},
    "method": {"name": "sam"},
    "training": {"epochs": 4},
    "search": {"method.rho": {"log_uniform": [0.01, 0.5]}, "training.lr": {"log_uniform": [0.01, 0.5]}},
}
"""A search over what `make_study` draws."""
METHODS = ("sam", "asam", "sgd")


def edit_journal(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes lines of a study's journal, as somebody else might: with checksums that match."""
    lines = [json.loads(line) for line in (folder / FILE_NAME).read_text().splitlines()]
    for line in lines:
        del line["crc"]  # whoever changes a line can make a checksum for it
        change(line)
    (folder / FILE_NAME).write_text("".join(to_line(line) + "\n" for line in lines))


def make_study(
    storage: Path,
    *,
    num_trials: int = 12,
    num_epochs: int = 4,
    methods: tuple[str, ...] = (),
    objectives: tuple[Objective, ...] = (Objective(),),
    name: str = "digits-1",
    constrained: bool = False,
    space_yaml: str = "name: digits\ndata: {name: digits}\n# <b>not bold</b>\n",
) -> Study:
    """A study whose accuracy peaks at rho 0.05 and lr 0.1; trials 5 and 7 were stopped early, and 9 failed."""
    folder = storage / name
    folder.mkdir(parents=True)
    study = Study(
        name=name,
        objectives=objectives,
        num_trials=num_trials,
        space_yaml=space_yaml,
        plan={"name": "digits", "num_groups": 2, "num_workers": 2},
        storage_path=str(folder),
        tracking_uri=f"sqlite:///{storage}/mlflow.db",
        experiment="digits",
        command="samtune search --space digits.yaml",
        versions={"python": "3.11.7", "samtune": "0.1.0", "torch": "2.15.0"},
        started_at=1_790_000_000.0,
        usage={"startup_seconds": 8.0, "busy_fraction": 0.9},
    )
    journal = Journal(folder)
    journal.on_study_start(study)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    told = optuna.create_study(
        study_name=name,
        storage=JournalStorage(JournalFileBackend(str(folder / "optuna.journal"))),
        directions=["maximize" if objective.mode == "max" else "minimize" for objective in objectives],
        sampler=optuna.samplers.RandomSampler(seed=0),
    )
    random_numbers = random.Random(0)
    clock = [study.started_at + 8.0, study.started_at + 9.0]
    for number in range(num_trials):
        asked = told.ask()
        config: dict[str, Scalar] = {}
        if methods:
            config["method.name"] = asked.suggest_categorical("method.name", methods)
        if config.get("method.name", "sam") != "sgd":
            config["method.rho"] = asked.suggest_float("method.rho", 0.01, 0.5, log=True)
        config["training.lr"] = asked.suggest_float("training.lr", 0.01, 0.5, log=True)
        if constrained:
            asked.set_constraint("lr <= 1", 0.0)
        trial = _trial(number, config, num_epochs)
        study.trials.append(trial)
        group = min(range(2), key=lambda index: clock[index])
        trial.started_at = clock[group]
        journal.on_trial_start(study, trial)
        state = {5: TrialState.PRUNED, 7: TrialState.PRUNED, 9: TrialState.FAILED}.get(number, TrialState.COMPLETED)
        epochs = {TrialState.PRUNED: 2, TrialState.FAILED: 1}.get(state, num_epochs)
        for epoch in range(1, epochs + 1):
            clock[group] += 1.0
            metrics = _metrics(epoch, config, num_epochs, random_numbers.gauss(0, 0.003))
            trial.history.append(EpochRecord(metrics, group, clock[group]))
            journal.on_epoch(study, trial, trial.history[-1])
        clock[group] += 0.2
        trial.state, trial.ended_at = state, clock[group]
        trial.error = "diverged: train_loss is nan in epoch 2" if state is TrialState.FAILED else None
        trial.diverged = state is TrialState.FAILED
        journal.on_trial_end(study, trial)
        if state is TrialState.COMPLETED:
            told.tell(asked, [objective.value(trial) for objective in objectives])
        else:
            if len(objectives) == 1:
                for record in trial.history:
                    asked.report(record[objectives[0].metric], int(record["epoch"]))
            told.tell(asked, state=optuna.trial.TrialState[{"pruned": "PRUNED", "failed": "FAIL"}[state]])
    study.ended_at = max(clock)
    journal.on_study_end(study)
    return study


def make_confirmation(
    storage: Path,
    values: Mapping[str, Sequence[float]],
    *,
    replicas: int,
    baselines: Sequence[str] = (),
    chosen_baselines: Sequence[str] = (),
    searched: float | None = None,
    name: str = "digits-1-confirm",
    listed: CandidateList | None = None,
) -> Study:
    """A confirmation with these test accuracies by candidate and replica; replicas without a value are missing.

    Args:
        listed: what was trained; default: the same for every label.
    """
    space = SearchSpace.from_dict(
        {"name": "d", "data": {"name": "digits"}, "model": {"name": "digits_cnn"}, "method": {"name": "sam"}}
    )
    spec = final(space.trial({}))
    chosen = {label: (spec, None if label in baselines else searched) for label in values}
    listed = listed or list_candidates(
        space, chosen, replicas=replicas, baselines=baselines, chosen_baselines=chosen_baselines
    )
    folder = storage / name
    folder.mkdir(parents=True)
    study = Study(
        name=name,
        objectives=(Objective("test_accuracy"),),
        num_trials=listed.num_trials,
        space_yaml=listed.to_yaml(),
        plan={"name": "d"},
        storage_path=str(folder),
        tracking_uri=f"sqlite:///{storage}/mlflow.db",
        experiment="d",
        command="samtune confirm digits-1",
        versions={"samtune": "0.1.0"},
        kind="confirmation",
        started_at=1_790_000_000.0,
    )
    journal = Journal(folder)
    journal.on_study_start(study)
    clock = study.started_at
    for number, config in enumerate(listed.configs()):
        label, replica = str(config[CANDIDATE]), int(config[REPLICA] or 0)
        if replica >= len(values[label]):
            continue
        params = {"method.name": "sam", "seed": listed.first_seed + replica}
        trial = Trial(number, f"c{number}", config, params, 2, TrialState.RUNNING, started_at=clock)
        study.trials.append(trial)
        journal.on_trial_start(study, trial)
        for epoch in (1, 2):
            clock += 1.0
            measured = {
                "epoch": float(epoch),
                "train_loss": 1.0 / epoch,
                "epoch_seconds": 1.0,
                "num_passes": 2.0 * epoch,
            }
            if epoch == 2:
                measured["test_accuracy"] = values[label][replica]
            trial.history.append(EpochRecord(measured, 0, clock))
            journal.on_epoch(study, trial, trial.history[-1])
        trial.state, trial.ended_at = TrialState.COMPLETED, clock
        journal.on_trial_end(study, trial)
    study.ended_at = clock
    journal.on_study_end(study)
    journal.close()
    return study


class InMemory(Results):
    """The results of a study that was never written to a disk."""

    def __init__(self, study: Study, told: optuna.Study) -> None:
        super().__init__(study)
        self._told = told

    def optuna_study(self) -> optuna.Study:
        return self._told


def make_large_study(num_trials: int, *, num_keys: int = 10, num_groups: int = 8) -> InMemory:
    """Completed trials of two epochs each, over rho, lr and `num_keys` keys that decide nothing; every 50th failed."""
    numbers = random.Random(0)
    study = Study(
        name="large",
        objectives=(Objective(),),
        num_trials=num_trials,
        space_yaml="name: large\n",
        plan={"data": "cifar10", "model": "wide_resnet", "method": "sam", "epochs": (2, 2), "batch_size": (64, 128)},
        storage_path="large",
        tracking_uri="sqlite:///mlflow.db",
        experiment="large",
        command="samtune search --space large.yaml",
        versions={},
        started_at=1_790_000_000.0,
        ended_at=1_790_000_000.0 + 3 * num_trials / num_groups,
    )
    kind = optuna.distributions.FloatDistribution(0.01, 0.5, log=True)
    keys = ["method.rho", "training.lr", *(f"training.key_{index}" for index in range(num_keys))]
    told = []
    for number in range(num_trials):
        config: dict[str, Scalar] = {key: 0.01 * 50 ** numbers.random() for key in keys}
        trial = _trial(number, config, 2)
        start = study.started_at + 3 * (number // num_groups)
        for epoch in (1, 2):
            metrics = _metrics(epoch, config, 2, numbers.gauss(0, 0.003))
            trial.history.append(EpochRecord(metrics, number % num_groups, start + epoch))
        trial.state = TrialState.FAILED if number % 50 == 49 else TrialState.COMPLETED
        trial.started_at, trial.ended_at = start, start + 2
        study.trials.append(trial)
        value = study.objective.value(trial) if trial.state is TrialState.COMPLETED else None
        state = optuna.trial.TrialState.FAIL if value is None else optuna.trial.TrialState.COMPLETE
        distributions = dict.fromkeys(config, kind)
        told.append(optuna.trial.create_trial(state=state, params=config, distributions=distributions, value=value))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    of_optuna = optuna.create_study(direction="maximize")
    of_optuna.add_trials(told)
    return InMemory(study, of_optuna)


def _trial(number: int, config: dict[str, Scalar], num_epochs: int) -> Trial:
    params: dict[str, Scalar] = {
        "data.name": "digits",
        "model.name": "digits_cnn",
        "method.name": "sam",
        "method.m": "worker" if number % 2 else 32,
        "training.epochs": num_epochs,
        "training.nesterov": False,
        "training.clip_norm": None,
        "training.weight_decay": 0 if number % 2 else 5e-4,
        "seed": 0,
        **config,
    }
    return Trial(number, f"t{number:03d}", config, params, num_epochs, TrialState.RUNNING)


def _metrics(epoch: int, config: dict[str, Scalar], num_epochs: int, noise: float) -> dict[str, float]:
    rho, lr = float(config.get("method.rho") or 1e-3), float(config["training.lr"] or 0)
    distance = math.log10(rho / 0.05) ** 2 + 2 * math.log10(lr / 0.1) ** 2
    accuracy = min(0.999, (0.97 - 0.08 * distance) * (1 - 0.5 ** (epoch + 1)) + noise)
    return {
        "epoch": float(epoch),
        "train_loss": 2.0 * (1 - accuracy),
        "train_accuracy": accuracy,
        "val_loss": 2.2 * (1 - accuracy),
        "val_accuracy": accuracy,
        "sharpness": 0.4 * rho / epoch,
        "gradient_norm": 1.0 / epoch,
        "perturbation_norm": rho,
        "gradient_cosine": 0.8 - 0.1 * rho,
        "lr": lr * (1 - epoch / num_epochs),
        "num_passes": 2.0 * epoch,
        "train_seconds": 0.8,
        "epoch_seconds": 1.0,
    }
