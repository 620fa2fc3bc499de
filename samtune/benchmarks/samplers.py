"""How long samplers take to propose, and how good what they find is: `python -m samtune.benchmarks samplers`.

Prints two Markdown tables. The quality is measured on a cheap surrogate of a real objective: a Gaussian process fitted
to trials of `digits.yaml` (4 epochs) that are trained for it.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import optuna
from optuna.trial import TrialState, create_trial

from samtune.config.space import SearchSpace
from samtune.study import Scalar, Trial
from samtune.study import TrialState as State
from samtune.tune.optuna_params import distributions_of
from samtune.tune.optuna_trials import OptunaTrials, open_study

SAMPLERS = ("random", "qmc", "tpe", "cmaes", "nsgaii", "gp")
SIZES = (10, 100, 1000, 3000)
NUM_TRIALS, SEEDS = 40, range(5)
_MOST_SECONDS = 20.0  # that the proposals of one cell of the table may take together
_TOO_LONG = 5.0  # seconds of a proposal, after which larger studies are not measured
_GROWN = ("cmaes", "nsgaii", "qmc")  # keep their state in the trials that they have proposed

Objective = Callable[[Mapping[str, Scalar]], float]


def make_space(sampler: str, seed: int = 0) -> SearchSpace:
    changes = {"sampler": {"name": sampler}, "seed": seed, "initial": [], "objective": {"metric": "val_loss"}}
    return SearchSpace.from_yaml("digits.yaml", {**changes, "training.epochs": 4})


def random_config(space: SearchSpace, rng: random.Random) -> dict[str, Scalar]:
    return space.tree.draw(lambda name, key, distribution: distribution.random(rng))


def features(config: Mapping[str, Scalar]) -> list[float]:
    """The searched keys, all of them positive, on the scale that they are searched on."""
    return [math.log10(float(value)) for value in config.values() if isinstance(value, float)]


def fit_surrogate(num_trials: int) -> tuple[Objective, float]:
    """A Gaussian process through really trained trials.

    Returns:
        Configuration -> expected val_loss, and R² of the process on trials that it was not fitted to.
    """
    import torch
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
    from sklearn.model_selection import cross_val_score

    from samtune.train.trial import DivergedError, TrialRun

    space, rng = make_space("random"), random.Random(0)
    inputs: list[list[float]] = []
    losses: list[float] = []
    for _ in range(num_trials):
        config = random_config(space, rng)
        trial = TrialRun(space.trial(config), rank=0, num_workers=1, device=torch.device("cpu"))
        try:
            for epoch in range(1, space.trial(config).num_epochs + 1):
                record = trial.train_epoch(epoch)
        except DivergedError:
            continue
        inputs.append(features(config))
        losses.append(math.log(record["val_loss"]))
    kernel = ConstantKernel() * RBF([1.0] * len(inputs[0])) + WhiteKernel()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a length scale at its bound does not matter
        process = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=3, random_state=0)
        r_squared = float(cross_val_score(process, inputs, losses, cv=5, scoring="r2").mean())
        process.fit(inputs, losses)
    return (lambda config: math.exp(float(process.predict([features(config)])[0]))), r_squared


def best_found(sampler: str, seed: int, objective: Objective, folder: Path) -> float:
    """The least loss among NUM_TRIALS trials, one after another."""
    space = make_space(sampler, seed)
    source = OptunaTrials(space, open_study(space, "quality", folder / f"{sampler}-{seed}", parallel=False))
    return min(_one_trial(source, str(number), objective)[0] for number in range(NUM_TRIALS))


def quality_table(num_surrogate_trials: int) -> str:
    objective, r_squared = fit_surrogate(num_surrogate_trials)
    lines = [
        f"Best val_loss after {NUM_TRIALS} trials on a surrogate of digits.yaml (Gaussian process through "
        f"{num_surrogate_trials} trials trained for 4 epochs, cross-validated R² {r_squared:.2f}).",
        "",
        f"| sampler | median of {len(SEEDS)} seeds | " + " | ".join(f"seed {seed}" for seed in SEEDS) + " |",
        "|---" * (len(SEEDS) + 2) + "|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for sampler in SAMPLERS:
            found = [best_found(sampler, seed, objective, Path(folder)) for seed in SEEDS]
            cells = " | ".join(f"{value:.4f}" for value in [statistics.median(found), *found])
            lines.append(f"| {sampler} | {cells} |")
    return "\n".join(lines)


def proposal_seconds(sampler: str, size: int, folder: Path) -> float:
    """Median time of `suggest` in a study of `num_trials` trials, in Optuna's journal file as a search keeps it."""
    space, rng = make_space(sampler), random.Random(0)
    study = open_study(space, "speed", folder / f"{sampler}-{size}", parallel=False)
    if sampler not in _GROWN:
        distributions = distributions_of(space)
        trials = []
        for _ in range(size):
            config = random_config(space, rng)
            loss = _sum_of_squares(config)
            trials.append(
                create_trial(state=TrialState.COMPLETE, value=loss, params=config, distributions=distributions)
            )
        study.add_trials(trials)
    source = OptunaTrials(space, study)
    for number in range(size if sampler in _GROWN else 0):
        _one_trial(source, f"before {number}", _sum_of_squares)
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < 11 and (not times or time.perf_counter() - started < _MOST_SECONDS):
        times.append(_one_trial(source, str(len(times)), _sum_of_squares)[1])
    return statistics.median(times[1:] or times)


def _one_trial(source: OptunaTrials, trial_id: str, objective: Objective) -> tuple[float, float]:
    """Proposes and ends a trial; returns its loss, and the seconds of the proposal."""
    started = time.perf_counter()
    proposal = source.next(trial_id)
    seconds = time.perf_counter() - started
    assert proposal is not None
    loss = objective(proposal.config)
    trial = Trial(proposal.number, trial_id, proposal.config, {}, 1, State.COMPLETED)
    trial.history.append({"epoch": 1.0, "val_loss": loss})
    source.report(trial, trial.history.records)
    source.end(trial)
    return loss, seconds


def _sum_of_squares(config: Mapping[str, Scalar]) -> float:
    return sum(value**2 for value in features(config))


def print_speed_table() -> None:
    """Row by row, since it takes minutes."""
    print("Milliseconds of one `suggest`, three log-uniform keys, journal storage, median of up to 10.\n")
    print("| sampler | " + " | ".join(f"{size:,} trials" for size in SIZES) + " |")
    print("|---" * (len(SIZES) + 1) + "|")
    with tempfile.TemporaryDirectory() as folder:
        for sampler in SAMPLERS:
            seconds: list[float] = []
            for size in SIZES:
                if not seconds or seconds[-1] < _TOO_LONG:
                    seconds.append(proposal_seconds(sampler, size, Path(folder)))
            cells = [f"{1000 * value:,.0f}" for value in seconds] + ["not measured"] * (len(SIZES) - len(seconds))
            print(f"| {sampler} | " + " | ".join(cells) + " |", flush=True)


def main(arguments: Sequence[str]) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m samtune.benchmarks samplers", description=__doc__)
    parser.add_argument("--only", choices=["speed", "quality"], help="one of the tables")
    parser.add_argument("--surrogate-trials", type=int, default=80, help="trials trained for the surrogate")
    given = parser.parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if given.only != "quality":
        print_speed_table()
    if given.only != "speed":
        print("\n" + quality_table(given.surrogate_trials))
