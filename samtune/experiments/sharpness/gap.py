"""The study of m (SAM paper, figure 3): how well each m-sharpness tells a trial's generalisation gap."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from samtune.errors import UsageError
from samtune.sharpness import least_order_information, order_information
from samtune.study import Scalar, Study, Trial, TrialState

Values = NDArray[np.float64]
MIN_TRIALS = 5
NUM_RESAMPLES = 1000


@dataclass(frozen=True)
class Interval:
    """A statistic and the 95% interval of its bootstrap over the trials."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Relation:
    """How a measure and the generalisation gap go together over the trials.

    Attributes:
        measure: metric of the trials.
        tau: Kendall's rank correlation (τ_b), -1 to 1.
        information: of the order of two trials by the measure about their order by the gap, 0 to 1 bit.
        least: the share of it that is left, 0 to 1, given the hyperparameters that leave least of it (`given`).
    """

    measure: str
    num_trials: int
    tau: Interval
    information: Interval
    least: float
    given: tuple[str, ...]


def relations(study: Study, *, seed: int = 0) -> list[Relation]:
    """One per m-sharpness that the trials have measured (`training.diagnostics`), in the order of m.

    The gap is the last epoch's train_accuracy - val_accuracy.

    Raises:
        UsageError: too few completed trials have measured any.
    """
    ended = [trial for trial in study if trial.state is TrialState.COMPLETED]
    names = {name for trial in ended for name in trial.metrics if name.startswith("m_sharpness")}
    if len(names) > 1:
        names.discard("m_sharpness")  # is one of the others
    found = []
    for name in sorted(names, key=lambda name: int(name.rpartition("_")[2]) if name[-1].isdigit() else 0):
        needed = (name, "train_accuracy", "val_accuracy")
        trials = [t for t in ended if all(math.isfinite(t.metrics.get(key, math.nan)) for key in needed)]
        if len(trials) >= MIN_TRIALS:
            measure = np.array([trial.metrics[name] for trial in trials])
            gap = np.array([trial.metrics["train_accuracy"] - trial.metrics["val_accuracy"] for trial in trials])
            found.append(relate(name, measure, gap, _hyperparameters(trials), seed=seed))
    if not found:
        raise UsageError(
            f"study {study.name}: needs at least {MIN_TRIALS} completed trials that have measured m_sharpness, "
            "train_accuracy and val_accuracy; measure it with training.diagnostics, e.g. {m_sharpness: 1, m: [1, 16]}"
        )
    return found


def _hyperparameters(trials: Sequence[Trial]) -> dict[str, list[Scalar]]:
    """Of each searched key with at least two values, each of two trials at least, the trials' values.

    Others, a learning rate drawn from an interval, say, leave no two pairs to compare.
    """
    columns = {key: [trial.config.get(key) for trial in trials] for key in trials[0].config}
    counts = {key: Counter(values) for key, values in columns.items()}
    return {key: columns[key] for key, count in counts.items() if len(count) > 1 and min(count.values()) > 1}


def relate(
    name: str, measure: Values, gap: Values, hyperparameters: Mapping[str, Sequence[Scalar]], *, seed: int = 0
) -> Relation:
    """The statistics, the first two with their bootstrap intervals.

    Args:
        measure, gap: [n], of the same trials.
        hyperparameters: by name, of each trial its value.
    """
    least, given = least_order_information(torch.from_numpy(measure), torch.from_numpy(gap), hyperparameters)
    return Relation(
        name,
        len(measure),
        _bootstrap(kendall_tau, measure, gap, seed),
        _bootstrap(pair_information, measure, gap, seed),
        least,
        given,
    )


def kendall_tau(a: Values, b: Values) -> float:
    """Kendall's τ_b; NaN where one of them is constant."""
    from scipy.stats import kendalltau

    return float(kendalltau(a, b).statistic)


def pair_information(a: Values, b: Values) -> float:
    """`samtune.sharpness.order_information` in bits, without conditioning."""
    return order_information(torch.from_numpy(a), torch.from_numpy(b)).bits


def _bootstrap(statistic: Callable[[Values, Values], float], a: Values, b: Values, seed: int) -> Interval:
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(NUM_RESAMPLES):
        chosen = generator.integers(len(a), size=len(a))
        value = statistic(a[chosen], b[chosen])
        if math.isfinite(value):
            values.append(value)
    low, high = np.quantile(values, [0.025, 0.975]) if values else (math.nan, math.nan)
    return Interval(statistic(a, b), float(low), float(high))


def write_plot(found: list[Relation], file: Path) -> None:
    """Both statistics over m."""
    from matplotlib.figure import Figure

    from samtune.experiments.sharpness.plots import COLOURS, open_axis

    figure = Figure(figsize=(8.0, 3.4), layout="constrained")
    labels = [relation.measure.removeprefix("m_sharpness_") for relation in found]
    for axis, name, colour in zip(figure.subplots(1, 2), ("tau", "information"), COLOURS, strict=False):
        intervals: list[Interval] = [getattr(relation, name) for relation in found]
        values = [interval.value for interval in intervals]
        errors = [
            [max(i.value - i.low, 0.0) for i in intervals],
            [max(i.high - i.value, 0.0) for i in intervals],
        ]
        axis.errorbar(range(len(found)), values, yerr=errors, fmt="o", color=colour, capsize=3)
        axis.set_xticks(range(len(found)), labels)
        axis.set_xlabel("m")
        axis.set_title({"tau": "Kendall's τ with the gap", "information": "information about the gap (bits)"}[name])
        axis.axhline(0, color="#8a8f98", linewidth=0.8)
        open_axis(axis)
    figure.savefig(file, dpi=150)
