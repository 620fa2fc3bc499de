"""Where the time goes from Return to the first trial: `python -m samtune.benchmarks start`.

Runs `samtune search digits.yaml` with two short trials at once, and shows when what was there, and every process with
its CPU seconds and what it has imported. On a busy machine compare the CPU seconds.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import psutil

from samtune.benchmarks.machine import print_machine
from samtune.benchmarks.processes import Processes, digits_search
from samtune.store.study_folder import study_folder

MILESTONES = {"first line": "", "Ray and MLflow are up": "] starting ", "first worker is ready": " is ready"}
"""What the first line of each says."""

_LOOK_SECONDS = 0.1


class Lines:
    """When a command has said what."""

    def __init__(self, stream: IO[str]) -> None:
        self.seen: dict[str, float] = {}
        self._stream = stream
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self._stream:
            for name, text in MILESTONES.items():
                if text in line:
                    self.seen.setdefault(name, time.time())


def run_start(folder: Path, num_trials: int) -> tuple[dict[str, float], Processes]:
    """Seconds from the start of the command to each milestone, and its processes."""
    spy = folder / f"spy-{time.time_ns()}"
    spy.mkdir()
    processes, name = Processes(spy), f"start-{time.time_ns()}"
    settings = ("training.epochs=1", "resources.num_workers=1", "max_concurrent=2")
    command = digits_search(folder, name, num_trials, settings)
    started, is_marked = time.time(), False
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=processes.environment()) as process:
        assert process.stdout is not None
        lines, root = Lines(process.stdout), psutil.Process(process.pid)
        while process.poll() is None:
            processes.look(root)
            if not is_marked and "first worker is ready" in lines.seen:
                processes.mark()
                is_marked = True
            time.sleep(_LOOK_SECONDS)
    if process.returncode:
        raise RuntimeError(f"the search ended with exit code {process.returncode}")
    found = {name: at - started for name, at in lines.seen.items()}
    records = [record for trial in study_folder(folder, name).read() for record in trial.history.after(0)]
    first_epoch = min(record.ended_at for record in records if record.ended_at is not None)
    return found | {"first trial's first epoch": first_epoch - started, "end": time.time() - started}, processes


def main(arguments: Sequence[str]) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m samtune.benchmarks start", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1, help="searches, one after the other (default 1)")
    parser.add_argument("--trials", type=int, default=2, help="of each search (default 2)")
    options = parser.parse_args(arguments)
    names = ("samtune", "ray", "torch", "optuna", "mlflow")
    print_machine(names)
    with tempfile.TemporaryDirectory() as temporary:
        for _ in range(options.rounds):
            found, processes = run_start(Path(temporary), options.trials)
            print(f"\nload {os.getloadavg()[0]:.1f}; seconds after the start of the command")
            for milestone, seconds in found.items():
                print(f"  {milestone:30}{seconds:8.2f}")
            print(f"\nCPU seconds of each process\n{processes.table()}")
            sys.stdout.flush()
