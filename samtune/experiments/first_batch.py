"""One batch of a trial in a process beside the driver, before any worker starts: mistakes cost seconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from samtune.config.library_model import LibraryModelConfig
from samtune.config.search import ResourcesConfig
from samtune.config.trial import TrialSpec
from samtune.errors import UsageError
from samtune.experiments.child_request import ROOT, pack
from samtune.raylib.cluster import local_node
from samtune.user_code import is_path

CPU_SECONDS, SECONDS = 20, 60
"""How much work the process may do, which does not depend on what else the machine does, and how long it may take."""
_MOST_TRIALS = 8
_SCRIPT = Path(__file__).with_name("first_batch_child.py")


class FirstBatchFailedError(UsageError):
    """One batch of a trial failed, and nothing was started.

    Attributes:
        traceback: of the process that tried it.
    """

    def __init__(self, line: str, traceback: str) -> None:
        super().__init__(
            f"one batch of a trial fails in {line} (no worker was started; --no-check, or check=False, starts the "
            "search all the same)"
        )
        self.traceback = traceback


class FirstBatch:
    """The process that tries one batch of each combination of the user's parts. Begins with the body, ends with it.

    Where nothing of the user's is in a trial, there is nothing to find, and no process. Neither is there one for a
    training function, of which only itself knows the batches.

    Args:
        variants: the trials of the study; of those with the same parts, one is tried.
        resources: of a trial.
        cpu_seconds: how much work it may do.
    """

    def __init__(
        self, variants: Sequence[TrialSpec], resources: ResourcesConfig, cpu_seconds: float = CPU_SECONDS
    ) -> None:
        self._specs = with_own_parts(variants)
        self._resources, self._cpu_seconds = resources, cpu_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._answer: dict[str, Any] = {}
        self._thread: threading.Thread | None = None
        self._ended = False

    def __enter__(self) -> Self:
        if self._specs:
            self._thread = threading.Thread(target=self._try, name="samtune-first-batch", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended = True
        self._kill()

    def result(self, is_given_up: Callable[[], bool]) -> list[str]:
        """Waits for it.

        Args:
            is_given_up: whether nobody wants to know any more.

        Returns:
            What to tell the user, where nothing was found out.

        Raises:
            FirstBatchFailedError: a batch failed, and would on a worker.
        """
        while self._thread is not None and self._thread.is_alive():
            if is_given_up():
                return []
            self._thread.join(0.1)
        line = self._answer.get("line")
        if line and self._answer["certain"]:
            raise FirstBatchFailedError(line, self._answer["traceback"])
        if line:
            return [f"note: one batch of a trial fails on this machine in {line}; the workers may do better"]
        if self._answer.get("unknown"):
            return [
                f"note: the check of one batch {self._answer['unknown']}: nothing is known (--no-check leaves it out)"
            ]
        return []

    def _try(self) -> None:
        """In a thread: writing to the process blocks, and a user's data may be among what is written."""
        try:
            request = self._request()
        except Exception:  # an object that cannot be pickled: the worker groups, which need it, will say so
            return
        with suppress(OSError):  # a search without it is a search
            self._process = process = subprocess.Popen(
                [sys.executable, "-P", str(_SCRIPT), str(ROOT), str(self._cpu_seconds), str(SECONDS)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # with it end the processes that read examples
            )
            if self._ended:
                self._kill()
            answer, _ = process.communicate(request)
            self._kill()  # what it has left
            self._process = None
            self._answer = json.loads(answer) if answer else {"unknown": self._how_it_ended(process.returncode)}

    def _how_it_ended(self, code: int) -> str:
        if code in (-signal.SIGPROF, -signal.SIGALRM):
            return f"was given up: it takes more than {self._cpu_seconds:g} s of a core, or {SECONDS} s"
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def _request(self) -> bytes:
        has_card = self._resources.gpus_per_worker != 0 and local_node().gpus > 0
        return pack(
            self._specs,
            num_workers=self._resources.least_workers,
            device="cuda" if has_card else "cpu",
            threads=max(1, int(local_node().cpus) // 2),  # Ray starts meanwhile
        )

    def _kill(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)


def with_own_parts(variants: Sequence[TrialSpec]) -> list[TrialSpec]:
    """The first trial of each combination of parts in which there is one of the user's, a function or weights."""
    found: dict[tuple[Any, ...], TrialSpec] = {}
    for spec in variants:
        training = spec.training
        names = (spec.data.name, spec.model.name, spec.method.name, training.loss, training.optimizer_name)
        own = any(is_path(name) for name in (*names, *training.metrics)) or getattr(spec.model, "weights", None)
        own = own or isinstance(spec.model, LibraryModelConfig)
        if spec.train is None and own:
            found.setdefault((*names, *training.metrics), spec)
    return list(found.values())[:_MOST_TRIALS]
