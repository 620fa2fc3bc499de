"""The installed command, in a test's own folder."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from helpers.command import Run, run_samtune


@pytest.fixture
def samtune(tmp_path: Path) -> Run:
    """`samtune(…)` in the test's own folder."""

    def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        return run_samtune(*arguments, cwd=tmp_path, **options)  # type: ignore[arg-type]

    return run
