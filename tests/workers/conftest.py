"""What several tests of the coordinator need."""

from __future__ import annotations

import pytest

from samtune.workers import coordinator


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The coordinator answers at once that it has nothing to say yet."""
    monkeypatch.setattr(coordinator, "POLL_SECONDS", 0.01)
