"""The README's complete program, run as it stands there."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.command import CLEAN

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.cluster
def test_the_program_with_parts_of_ones_own_runs_and_is_short(tmp_path: Path) -> None:
    (program,) = (
        code for code in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL) if "make_net" in code
    )
    assert len(program.splitlines()) < 40
    (tmp_path / "mine.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "mine.py"], cwd=tmp_path, env=CLEAN, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    config, accuracy, confidence = re.fullmatch(r"(\{.*\}) (\S+) (\S+)\n", done.stdout).groups()  # type: ignore[union-attr]
    assert list(ast.literal_eval(config)) == ["method.rho", "training.lr"]
    assert 0.5 < float(accuracy) <= 1
    assert 0.5 <= float(confidence) <= 1
