"""The programs of `samtune docs integrations`, as they stand there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "samtune" / "docs" / "integrations.md"


def run_program(heading: str) -> dict[str, Any]:
    """Runs the program under a heading of the page; what it defines."""
    found = re.search(rf"^## {heading}\n.*?```python\n(.*?)```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None
    assert len(found[1].splitlines()) < 25
    names: dict[str, Any] = {"__name__": "program"}
    exec(compile(found[1], str(PAGE), "exec"), names)
    return names


@pytest.fixture
def program() -> Callable[[str], dict[str, Any]]:
    return run_program
