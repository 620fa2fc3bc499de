"""Trials per hour by how a search shares out two places: `python -m samtune.benchmarks layouts`.

The same trials run on one group of two workers, on two groups of one, and with `resources.num_workers: auto`, which
begins as the second and has the last trial, where it is alone, go on with both places.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from samtune.benchmarks.machine import print_machine
from samtune.config.space import SearchSpace
from samtune.experiments.tuner import Tuner
from samtune.raylib.cluster import local_node
from samtune.study import Callback, Study

PLACES = 2
LAYOUTS: tuple[tuple[str, int | str], ...] = (("1 x 2", 2), ("2 x 1", 1), ("auto", "auto"))
"""Groups x workers, and `resources.num_workers`."""


class _Lines(Callback):
    """Prints what the search says about the trials' workers."""

    def on_status(self, study: Study, message: str) -> None:
        if "no trials are to come" in message or "goes back" in message:
            print(f"  {message}", flush=True)


def run_layout(num_workers: int | str, num_trials: int, epochs: int, folder: Path) -> tuple[float, float]:
    """Runs the trials on all of this machine's cores as two places.

    Returns:
        Seconds of the whole search, and of its part before the first group was ready.
    """
    space = SearchSpace.from_yaml(
        "digits.yaml",
        [
            *("search={}", "initial=[]", "search.method.rho={uniform: [0.02, 0.1]}", "sampler=random"),
            *("model={name: wide_resnet, depth: 10, width: 1}", "method.m=32", f"training.epochs={epochs}"),
            f"resources={{num_workers: {num_workers}, cpus_per_worker: {local_node().cpus / PLACES}}}",
            "resources.gpus_per_worker=0",
        ],
    )
    started = time.perf_counter()
    study = (
        Tuner(
            space,
            num_trials=num_trials,
            max_concurrent=PLACES,
            name=f"layout-{time.time_ns()}",
            storage_path=folder,
            address="local",
            callbacks=[_Lines()],
            check=False,
        )
        .fit()
        .study
    )
    return time.perf_counter() - started, study.usage["startup_seconds"]


def main(arguments: Sequence[str]) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m samtune.benchmarks layouts", description=__doc__)
    parser.add_argument("--trials", type=int, default=3, help="of each search (default 3: the last is alone)")
    parser.add_argument("--epochs", type=int, default=120, help="of each trial (default 120)")
    options = parser.parse_args(arguments)
    names = ("samtune", "ray", "torch")
    print_machine(names)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, num_workers in LAYOUTS:
            seconds, startup = run_layout(num_workers, options.trials, options.epochs, Path(folder))
            rows.append((name, seconds, startup, os.getloadavg()[0]))
    print(f"\n{options.trials} trials of {options.epochs} epochs, WRN-10-1 on digits, SAM with m = 32 of 64")
    print(f"  {'groups x workers':18}{'search, s':>12}{'of it start, s':>16}{'trials/hour':>14}{'load':>8}")
    for name, seconds, startup, load in rows:
        rate = 3600 * options.trials / seconds
        print(f"  {name:18}{seconds:12.1f}{startup:16.1f}{rate:14.1f}{load:8.1f}")
