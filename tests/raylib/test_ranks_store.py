"""The store through which the ranks of a group meet is nobody else's."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import timedelta

import pytest
import torch.distributed as dist

from samtune.raylib import group_trainer

SHORT = timedelta(seconds=1)
HOST = group_trainer.LOOPBACK_ADDRESS


@pytest.fixture
def port() -> Iterator[int]:
    yield group_trainer._open_store(HOST)
    group_trainer._leave()


def test_it_is_closed_to_newcomers_when_the_ranks_are_there(port: int) -> None:
    rank = dist.TCPStore(HOST, port, is_master=False, timeout=SHORT)
    group_trainer._close_store()
    with pytest.raises(dist.DistNetworkError):
        dist.TCPStore(HOST, port, is_master=False, timeout=SHORT)
    with pytest.raises(TimeoutError):
        socket.create_connection((HOST, port), timeout=0.5)
    rank.set("key", "value")  # those who were there go on
    assert rank.get("key") == group_trainer._store.get("key") == b"value"


def test_it_listens_at_its_own_address_alone(port: int) -> None:
    socket.create_connection((HOST, port), timeout=5).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), timeout=5)
