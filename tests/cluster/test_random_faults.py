"""One search of 20 trials in which all kinds of things go wrong: its results are those of undisturbed trainings."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import IO, Any

import psutil
import pytest
from helpers.command import CLEAN, SAMTUNE, wait_for_no_ray_process
from helpers.complete import check_complete, results_alone, results_of
from helpers.processes import CONTINUES, tree

from samtune.store.journal import FILE_NAME, read_journal
from samtune.study import Study

NUM_TRIALS, NUM_FIRST, EPOCHS = 20, 18, 2
MOVED_AFTER, STORE_GONE_AFTER = 4, 10  # trials that have ended
STORE_SECONDS = 6.0
MAX_SECONDS = 600  # without a new epoch, on a machine with other work

SLOW = """
import os
import time


def slow(outputs, targets):
    if os.path.exists({gate!r}):
        time.sleep(0.25)
    return (0 * outputs).mean()
"""

SPACE = (
    *("--space", "digits.yaml", "--name", "study", "--num-workers", "1", "--max-concurrent", "1"),
    *("--set", "model={name: mlp, depth: 2, width: 8}", "--set", "data.num_train=300"),
    *("--set", f"training.epochs={EPOCHS}", "--set", "training.metrics=[slowly:slow]"),
    *("--set", "checkpoint.min_seconds=0.0", "--set", "max_failures=100"),
    *("--set", "sampler=grid", "--set", "initial=[]"),
    *("--set", "search={method.rho: {grid: [0.02, 0.05, 0.1, 0.2, 0.5]}}"),
    *("--set", "search.training.lr={grid: [0.01, 0.03, 0.1, 0.2]}"),
)


class Disturbed:
    """A search that is begun in a folder, and resumed there or where the folder was moved, until it is complete."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self.folder, self._rng = folder, rng
        self.faults: list[str] = []
        self._log: IO[str] = (folder.parent / "log").open("a+")
        self._stdout: IO[str] = (folder.parent / "stdout").open("a+")
        self._killed = False
        self.driver = self._start(*SPACE, "--num-trials", str(NUM_FIRST))

    @property
    def study(self) -> Path:
        return self.folder / "samtune-results" / "study"

    def read(self) -> Study | None:
        """The study so far; None before it has begun."""
        path = self.study / FILE_NAME
        return read_journal(self.study) if path.exists() and b"\n" in path.read_bytes() else None

    def resume(self, *options: str) -> None:
        self.driver = self._start("--resume", "study", *options)

    def _start(self, *arguments: str) -> subprocess.Popen[str]:
        self._killed = False
        self._stdout.seek(0)
        self._stdout.truncate()
        return subprocess.Popen(
            [*SAMTUNE, "search", *arguments, "--no-check", "--json"],
            cwd=self.folder,
            env=CLEAN,
            stdout=self._stdout,
            stderr=self._log,
            text=True,
            start_new_session=True,
        )

    def output(self) -> str:
        """All that the searches have said."""
        self._log.seek(0)
        return f"{self.faults}\n{self._log.read()}"

    def close(self) -> None:
        self.driver.kill()
        self.driver.wait()
        self._log.close()
        self._stdout.close()

    # -- faults ------------------------------------------------------------------------------------------------------

    def strike(self) -> None:
        """Kills or stops a process of the tree that is not the cluster's own."""
        processes = [each for kind, found in tree(self.driver).items() if kind in CONTINUES for each in found]
        self._strike(self._rng.choice([psutil.Process(self.driver.pid), *sorted(processes, key=lambda p: p.pid)]))

    def kill_driver(self) -> None:
        self._strike(psutil.Process(self.driver.pid), kills=True)

    def _strike(self, victim: psutil.Process, kills: bool | None = None) -> None:
        kills = self._rng.random() < 0.6 if kills is None else kills
        with suppress(psutil.NoSuchProcess):
            self.faults.append(f"{'killed' if kills else 'stopped'} {' '.join(victim.cmdline()[:4])[:60]}")
            if kills:
                self._killed = self._killed or victim.pid == self.driver.pid
                victim.kill()
                return
            victim.suspend()
            time.sleep(self._rng.uniform(0.5, 2.0))
            victim.resume()

    def move(self) -> None:
        """Ends the search as Ctrl-C does, moves its project, and resumes it there; the driver dies while it starts."""
        self.faults.append("moved")
        self.driver.send_signal(signal.SIGINT)
        self.driver.wait(MAX_SECONDS)
        assert self.driver.returncode == 130, self.output()
        self.folder = self.folder.rename(self.folder.with_name("moved"))
        self.resume()
        time.sleep(self._rng.uniform(0.5, 8.0))
        self.kill_driver()

    def take_store_away(self) -> None:
        """Nobody else can read or write MLflow's database for a while."""
        self.faults.append("MLflow away")
        with closing(sqlite3.connect(self.study.parent / "mlflow.db", timeout=60, isolation_level=None)) as store:
            store.execute("BEGIN EXCLUSIVE")
            time.sleep(STORE_SECONDS)
            store.execute("ROLLBACK")

    # -- waiting -----------------------------------------------------------------------------------------------------

    def has_ended(self) -> bool:
        """Whether the driver is gone: because it was killed, or since the study is complete."""
        if self.driver.poll() is None:
            return False
        assert self.driver.returncode == (-signal.SIGKILL if self._killed else 0), self.output()
        return True

    def wait_for_an_epoch(self) -> None:
        """Returns when the search has got on, or has ended."""
        before, deadline = self._num_epochs(), time.monotonic() + MAX_SECONDS
        while self._num_epochs() == before and not self.has_ended():
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.1)

    def _num_epochs(self) -> int:
        study = self.read()
        return sum(len(trial.history) for trial in study) if study is not None else 0

    def num_ended(self) -> int:
        study = self.read()
        return sum(trial.state.is_final for trial in study) if study is not None else 0

    def summary(self) -> dict[str, Any]:
        """What the last driver prints at its end."""
        self.driver.wait(MAX_SECONDS)
        assert self.driver.returncode == 0, self.output()
        self._stdout.seek(0)
        found: dict[str, Any] = json.loads(self._stdout.read())
        return found


def disturb(search: Disturbed, rng: random.Random) -> None:
    """Until the search is complete."""
    special: list[tuple[int, Callable[[], None]]] = [
        (MOVED_AFTER, search.move),
        (STORE_GONE_AFTER, search.take_store_away),
    ]
    while True:
        search.wait_for_an_epoch()
        if not search.has_ended():
            time.sleep(rng.uniform(0.3, 1.5))
        if search.has_ended():
            if search.driver.returncode == 0:
                return
            search.resume()
        elif special and search.num_ended() >= special[0][0]:
            special.pop(0)[1]()
        else:
            search.strike()


@pytest.mark.cluster
@pytest.mark.timeout(3000)
def test_a_search_that_is_disturbed_at_random_has_the_results_of_trainings_that_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = int(os.environ.get("SAMTUNE_TEST_SEED", "16"))
    print(f"SAMTUNE_TEST_SEED={seed}")
    rng, gate, project = random.Random(seed), tmp_path / "gate", tmp_path / "project"
    project.mkdir()
    (project / "slowly.py").write_text(SLOW.format(gate=str(gate)))
    gate.touch()
    search = Disturbed(project, rng)
    try:
        disturb(search, rng)
        gate.unlink()
        print(*search.faults, sep="\n", file=sys.stderr)
        assert {"moved", "MLflow away"} <= set(search.faults)
        study = check_complete(search.study, search.summary(), NUM_FIRST, EPOCHS)
        ended = {trial.number: trial.ended_at for trial in study}

        # A complete study has nothing left to run, and more trials may be asked for.
        search.resume("--num-trials", str(NUM_TRIALS))
        study = check_complete(search.study, search.summary(), NUM_TRIALS, EPOCHS)
    finally:
        search.close()
    assert {trial.number: trial.ended_at for trial in study if trial.number in ended} == ended  # not run again
    assert len({(trial.config["method.rho"], trial.config["training.lr"]) for trial in study}) == NUM_TRIALS  # the grid
    monkeypatch.syspath_prepend(search.folder)
    assert results_of(study) == results_alone(study, tmp_path / "alone")
    wait_for_no_ray_process()
