"""A local Ray for the tests of worker groups, shut down at the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from samtune.raylib.cluster import connected


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """A Ray of our own on this machine, as `samtune search` starts it."""
    with connected("local"):
        yield
