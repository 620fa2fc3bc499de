"""A search against a plain script: `python -m samtune.benchmarks plain`.

The script (`plain_script.py`) is Optuna with a hand-written SAM loop in two processes, without Ray, MLflow, checkpoints
or a scheduler. Both search digits with one worker a trial and two trials at once, one after the other, by turns. The
script stops when its study has as many trials, so that its last ones may exceed the number by one.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import optuna
from optuna.storages.journal import JournalFileBackend

from samtune.store.study_folder import study_folder

PROCESSES = 2


def run_script(folder: Path, num_trials: int, epochs: int) -> tuple[float, list[float]]:
    """The wall time of the script's processes, and when each trial ended, in seconds since 1970."""
    journal = str(folder / f"plain-{time.time_ns()}.log")
    call = f"search({journal!r}, {num_trials}, {epochs})"
    command = [sys.executable, "-c", f"from samtune.benchmarks.plain_script import search; {call}"]
    started = time.perf_counter()
    processes = [subprocess.Popen(command, env=_one_thread()) for _ in range(PROCESSES)]
    if any(process.wait() for process in processes):
        raise RuntimeError("a process of the script failed")
    seconds = time.perf_counter() - started
    study = optuna.load_study(study_name="plain", storage=optuna.storages.JournalStorage(JournalFileBackend(journal)))
    return seconds, sorted(t.datetime_complete.timestamp() for t in study.trials if t.datetime_complete is not None)


def run_samtune(folder: Path, num_trials: int, epochs: int) -> tuple[float, list[float]]:
    """The same of `samtune search`, with everything that it does besides."""
    name = f"search-{time.time_ns()}"
    settings = [f"training.epochs={epochs}", "resources.num_workers=1", f"max_concurrent={PROCESSES}"]
    command = [
        sys.executable,
        "-m",
        "samtune",
        "search",
        "digits.yaml",
        "--name",
        name,
        "--num-trials",
        str(num_trials),
    ]
    command += ["--storage-path", str(folder), "--address", "local", *(a for s in settings for a in ("--set", s))]
    started = time.perf_counter()
    subprocess.run(command, env=_one_thread(), check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    study = study_folder(folder, name).read()
    return seconds, sorted(trial.ended_at for trial in study if trial.ended_at is not None)


def per_trial(ends: Sequence[float]) -> float:
    """Seconds of one more trial, from the second quarter of them on: the start is over then."""
    first = len(ends) // 4
    return (ends[-1] - ends[first]) / (len(ends) - 1 - first)


def main(arguments: Sequence[str]) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m samtune.benchmarks plain", description=__doc__)
    parser.add_argument("--trials", type=int, default=100, help="of each search (default 100)")
    parser.add_argument("--epochs", type=int, default=12, help="of each trial (default 12)")
    parser.add_argument("--rounds", type=int, default=2, help="of both, by turns (default 2)")
    options = parser.parse_args(arguments)
    names = ("samtune", "ray", "torch", "optuna", "mlflow")
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(", ".join(f"{name} {version(name)}" for name in names))
    print(f"digits, {options.trials} trials of {options.epochs} epochs, {PROCESSES} at once, 1 worker each")
    print(f"  {'':8}{'search, s':>22}{'ratio':>8}{'one more trial, s':>24}{'ratio':>8}{'load':>8}")
    print(f"  {'round':8}{'samtune':>11}{'script':>11}{'':>8}{'samtune':>12}{'script':>12}")
    with tempfile.TemporaryDirectory() as temporary:
        for index in range(options.rounds):
            pair = (run_samtune, run_script) if index % 2 == 0 else (run_script, run_samtune)
            found = {run: run(Path(temporary), options.trials, options.epochs) for run in pair}
            (ours, our_ends), (theirs, their_ends) = found[run_samtune], found[run_script]
            one, other = per_trial(our_ends), per_trial(their_ends)
            search = f"{ours:11.1f}{theirs:11.1f}{ours / theirs:8.2f}"
            trial = f"{one:12.3f}{other:12.3f}{one / other:8.2f}"
            print(f"  {index + 1:<8}{search}{trial}{os.getloadavg()[0]:8.1f}")
            sys.stdout.flush()


def _one_thread() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}
