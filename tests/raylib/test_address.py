"""Which Ray cluster a search takes when it is not told."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from samtune.errors import UsageError
from samtune.raylib.cluster import _running_here, connected

Leave = Callable[[str], None]


@pytest.fixture
def leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Leave:
    """Leaves an address as `ray start` does."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "ray").mkdir()

    def write(address: str) -> None:
        (tmp_path / "ray" / "ray_current_cluster").write_text(address)

    return write


def test_the_address_of_a_cluster_that_was_killed_is_passed_over(leave: Leave) -> None:
    assert _running_here() is None
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        leave(address)
        assert _running_here() == address
    assert _running_here() is None


def test_auto_without_a_cluster_is_refused_at_once(leave: Leave) -> None:
    leave("127.0.0.1:1")
    with pytest.raises(UsageError, match=r"^address auto: no Ray cluster runs on this machine"), connected("auto"):
        pass


def test_a_cluster_of_the_environment_that_does_not_answer_is_an_error(
    leave: Leave, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UsageError, match=r"^address 127.0.0.1:1: no Ray cluster answers"), connected(None):
        pass
