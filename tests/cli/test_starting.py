"""A person who presses Return sees at once that something happens."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from samtune.cli.starting import LINE, STUDY_LINE

AT_THE_FIRST_LINE = """
import io, os, sys

class Terminal(io.StringIO):
    def isatty(self):
        return IS_TERMINAL

    def write(self, text):
        heavy = {"torch", "ray", "mlflow", "optuna", "pyarrow", "pandas", "rich"} & set(sys.modules)
        sys.__stdout__.write(f"{text}|{sorted(heavy)}")
        sys.__stdout__.flush()
        os._exit(0)

sys.stderr = Terminal()
from samtune.cli.app import main
main()
"""


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (("search", "digits.yaml"), LINE),
        (("train", "none.yaml"), LINE),
        (("search", "--space", "none"), LINE),
        (("search", "--resume", "none"), STUDY_LINE),
        (("confirm", "none"), STUDY_LINE),
        (("confirm", "none.yaml"), LINE),
    ],
)
def test_a_terminal_has_a_line_before_anything_that_takes_long_is_imported(
    command: tuple[str, ...], line: str, tmp_path: Path
) -> None:
    assert said_first(command, True, tmp_path) == f"{line}|[]"


def test_a_pipe_has_no_such_line(tmp_path: Path) -> None:
    assert said_first(("train", "none.yaml"), False, tmp_path).startswith("samtune: error: ")


def test_nothing_starts_without_a_space_or_in_a_dry_run(tmp_path: Path) -> None:
    for command in (("search",), ("search", "none.yaml", "--dry-run"), ("search", "--resume", "none", "--dry-run")):
        assert said_first(command, True, tmp_path).startswith("samtune: error: ")


def said_first(command: tuple[str, ...], is_terminal: bool, folder: Path) -> str:
    """What the command writes first to stderr, and which heavy libraries it has imported until then."""
    code = AT_THE_FIRST_LINE.replace("IS_TERMINAL", str(is_terminal))
    return subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, timeout=120, cwd=folder
    ).stdout
