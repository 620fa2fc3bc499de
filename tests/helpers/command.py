"""Runs the installed command as a user does: a process of its own, in an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

SAMTUNE = [sys.executable, "-m", "samtune"]
_MARK = {"SAMTUNE_TESTED_BY": str(os.getpid())}
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "CUDA_VISIBLE"))} | _MARK

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def run_samtune(
    *arguments: str, cwd: Path, timeout: float = 550, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs `samtune` to its end; stdout and stderr as text."""
    return subprocess.run(
        [*SAMTUNE, *arguments],
        cwd=cwd,
        env=CLEAN | (env or {}),
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )


def ray_processes() -> set[int]:
    """Ids of the Ray processes that came of a command of these tests."""
    found = set()
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        if "ray::" in command or "raylet" in command or "gcs_server" in command:
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if _MARK.items() <= process.environ().items():
                    found.add(process.pid)
    return found


def wait_for_no_ray_process() -> None:
    """Ray's processes end on their own when their raylet does; they need a moment to notice."""
    deadline = time.time() + 180
    while left := ray_processes():
        assert time.time() < deadline, f"Ray processes were left behind: {left}"
        time.sleep(0.2)
