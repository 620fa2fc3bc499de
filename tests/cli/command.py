"""Runs the installed command as a user does: a process of its own, in an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

SAMTUNE = [sys.executable, "-m", "samtune"]
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "CUDA_VISIBLE"))}

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def run_samtune(
    *arguments: str, cwd: Path, timeout: float = 300, env: dict[str, str] | None = None
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
