"""Which tests belong to the quick suite, and a Ray that the tests of a module share."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

SLOW = ("cluster", "browser")
"""Markers of what takes long by its nature: such a test is slow too, so `-m "not slow"` is the quick suite."""

S3_FIXTURES = {"s3", "s3_server"}

WEIGHTS = {"cluster": 100, "slow": 30}
"""How many other tests one with this marker takes as long as, roughly."""

if "PYTEST_XDIST_WORKER" in os.environ:  # as early as here: torch reads it when it is imported
    # With a thread per core in each of the processes, these spend half of their time in waiting for one another.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


class _Loggers(dict[str, Any]):
    """All loggers by name. pytest goes through them before each test, while a thread that imports may add some."""

    def values(self) -> Any:
        return list(super().values())


def pytest_configure(config: pytest.Config) -> None:
    """Under `pytest -n`, gives each process its own folder of Ray, which holds the address of a cluster."""
    logging.root.manager.loggerDict = _Loggers(logging.root.manager.loggerDict)
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False  # xdist's order puts files of one long test last
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # short: Ray's sockets are in it
        os.environ["RAY_TMPDIR"] = folder
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not S3_FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.s3)
        if any(item.get_closest_marker(name) for name in SLOW):
            item.add_marker(pytest.mark.slow)
    if "PYTEST_XDIST_WORKER" in os.environ:
        _longest_files_first(items)


def pytest_collection_finish() -> None:
    """Keeps what all tests have imported out of Python's collections of garbage, each of which takes half a second."""
    gc.collect()
    gc.freeze()


def _longest_files_first(items: list[pytest.Item]) -> None:
    """So that, at the end, no process works on a long file while the others have nothing left."""
    seconds: Counter[object] = Counter()
    for item in items:
        seconds[item.path] += max((WEIGHTS[name] for name in WEIGHTS if item.get_closest_marker(name)), default=1)
    items.sort(key=lambda item: -seconds[item.path])  # stable: a file's tests keep their order


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """A Ray of this machine for a module's tests, started as `samtune search` starts one.

    A search in this process uses it instead of one of its own, which takes several seconds of CPU to start.
    """
    from samtune.raylib.cluster import connected

    with connected("local"):
        yield
