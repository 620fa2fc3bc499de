"""A search against a plain script: `python -m samtune.benchmarks plain`.

The script (`plain_script.py`) is Optuna with a hand-written SAM loop in two processes, without Ray, MLflow, checkpoints
or a scheduler. Both search digits with one worker a trial and two trials at once, one after the other, by turns. The
script stops when its study has as many trials, so that its last ones may exceed the number by one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
import psutil
from optuna.storages.journal import JournalFileBackend

from samtune.benchmarks.machine import print_machine
from samtune.benchmarks.processes import Processes, digits_search
from samtune.store.study_folder import study_folder

PROCESSES = 2
_LOOK_SECONDS = 0.2


@dataclass
class Search:
    """One contestant's.

    Attributes:
        seconds: wall time of its processes.
        ends: when each trial ended, in seconds since 1970.
        cpu: CPU seconds of all its processes together until such a time, at intervals.
    """

    seconds: float
    ends: list[float]
    cpu: list[tuple[float, float]]

    @property
    def per_trial(self) -> tuple[float, float]:
        """Wall and CPU seconds of one more trial, from the second quarter of them on: the start is over then."""
        first = len(self.ends) // 4
        count, (start, end) = len(self.ends) - 1 - first, (self.ends[first], self.ends[-1])
        times, cpu = np.array(self.cpu).T
        at_start, at_end = np.interp(np.array([start, end]), times, cpu).tolist()
        return (end - start) / count, (at_end - at_start) / count


def run_script(folder: Path, num_trials: int, epochs: int) -> Search:
    """The plain script."""
    journal = str(folder / f"plain-{time.time_ns()}.log")
    call = f"search({journal!r}, {num_trials}, {epochs})"
    command = [sys.executable, "-c", f"from samtune.benchmarks.plain_script import search; {call}"]
    seconds, cpu = _timed([command] * PROCESSES, folder)
    study = optuna.load_study(study_name="plain", storage=optuna.storages.JournalStorage(JournalFileBackend(journal)))
    return Search(seconds, sorted(t.datetime_complete.timestamp() for t in study.trials if t.datetime_complete), cpu)


def run_samtune(folder: Path, num_trials: int, epochs: int) -> Search:
    """`samtune search`, with everything that it does besides."""
    name = f"search-{time.time_ns()}"
    settings = [f"training.epochs={epochs}", "resources.num_workers=1", f"max_concurrent={PROCESSES}"]
    seconds, cpu = _timed([digits_search(folder, name, num_trials, settings)], folder)
    study = study_folder(folder, name).read()
    return Search(seconds, sorted(trial.ended_at for trial in study if trial.ended_at is not None), cpu)


def _timed(commands: Sequence[Sequence[str]], folder: Path) -> tuple[float, list[tuple[float, float]]]:
    """Runs commands at once; their wall time, and their CPU time as of `Search`."""
    started, found, cpu = time.perf_counter(), Processes(folder), []
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    running = [psutil.Popen(command, env=environment, stdout=subprocess.DEVNULL) for command in commands]
    while any(process.poll() is None for process in running):
        for process in running:
            found.look(process)
        cpu.append((time.time(), found.seconds))
        time.sleep(_LOOK_SECONDS)
    if any(process.returncode for process in running):
        raise RuntimeError("a process of a search failed")
    return time.perf_counter() - started, cpu


def main(arguments: Sequence[str]) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m samtune.benchmarks plain", description=__doc__)
    parser.add_argument("--trials", type=int, default=100, help="of each search (default 100)")
    parser.add_argument("--epochs", type=int, default=12, help="of each trial (default 12)")
    parser.add_argument("--rounds", type=int, default=2, help="of both, by turns (default 2)")
    options = parser.parse_args(arguments)
    names = ("samtune", "ray", "torch", "optuna", "mlflow")
    print_machine(names)
    print(f"digits, {options.trials} trials of {options.epochs} epochs, {PROCESSES} at once, 1 worker each")
    columns = ("search, s", "CPU, s", "one more trial, s", "CPU, s")
    print(f"  {'':8}" + "".join(f"{column:>28}" for column in columns) + f"{'load':>8}")
    print(f"  {'round':8}" + f"{'samtune':>10}{'script':>10}{'ratio':>8}" * len(columns))
    with tempfile.TemporaryDirectory() as temporary:
        for index in range(options.rounds):
            pair = (run_samtune, run_script) if index % 2 == 0 else (run_script, run_samtune)
            found = {run: run(Path(temporary), options.trials, options.epochs) for run in pair}
            ours, theirs = found[run_samtune], found[run_script]
            rows = [(ours.seconds, theirs.seconds), (ours.cpu[-1][1], theirs.cpu[-1][1])]
            rows += list(zip(ours.per_trial, theirs.per_trial, strict=True))
            cells = "".join(f"{one:10.2f}{other:10.2f}{one / other:8.2f}" for one, other in rows)
            print(f"  {index + 1:<8}{cells}{os.getloadavg()[0]:8.1f}")
            sys.stdout.flush()
