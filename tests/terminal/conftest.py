from __future__ import annotations

from pathlib import Path

import pytest
from helpers.searches import Search


@pytest.fixture
def search(tmp_path: Path) -> Search:
    return Search(tmp_path, num_trials=4)
