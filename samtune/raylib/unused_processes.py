"""Processes of a cluster of this machine that nothing in a search asks: seconds of CPU at its start."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

UNUSED = {
    "start_log_monitor": "sends what workers print to the driver, which has switched that off (log_to_driver)",
    "start_monitor": "asks an autoscaler for nodes, of which such a cluster has one",
}
"""Methods of Ray's node that each start one, and what it is for.

The API server is not among them: the agent of a node looks for it, and without one logs an error every second.
"""


@contextmanager
def without_unused_processes() -> Iterator[None]:
    """A cluster that `ray.init` starts in the body has the processes that it needs."""
    from ray._private.node import Node

    before = {name: getattr(Node, name) for name in UNUSED}
    for name in UNUSED:
        setattr(Node, name, _start_nothing)
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(Node, name, method)


def _start_nothing(node: Any) -> None:
    """In the place of each of them. The node's table of its processes lacks them then, which Ray allows for."""
