"""What a process does while `ray.init` starts a cluster: it waits no longer than it must, and imports Ray Train."""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

_LOOK_SECONDS = 0.02
_PATIENCE = 25.0  # Ray's own is 30 s


@contextmanager
def without_long_waits() -> Iterator[None]:
    """A cluster that `ray.init` starts in the body is there when it is, not at the next of Ray's looks, 1 s apart."""
    from ray._private import services

    ray_s_own = services.get_node

    def get_node(gcs_address: str, node_id: str) -> Any:
        _await_node(gcs_address, node_id)
        return ray_s_own(gcs_address, node_id)  # type: ignore[no-untyped-call]

    services.get_node = get_node
    try:
        yield
    finally:
        services.get_node = ray_s_own


def _await_node(gcs_address: str, node_id: str) -> None:
    """Until the node is in the cluster's tables; where it does not come, Ray says so."""
    from ray import _raylet

    raylet: Any = _raylet
    deadline = time.monotonic() + _PATIENCE
    with suppress(Exception):  # Ray's own look meets it too
        client = raylet.GcsClient(address=gcs_address)
        while time.monotonic() < deadline:
            if any(known.hex() == node_id for known in client.get_all_node_info(timeout=5)):
                return
            time.sleep(_LOOK_SECONDS)


@contextmanager
def telling_of_the_wait(is_waiting: threading.Event) -> Iterator[None]:
    """Sets the event when `ray.init` in the body has started the first processes and waits for them.

    What other threads do before that makes it later: they share the interpreter.
    """
    from ray._private import services
    from ray._private.ray_constants import PROCESS_TYPE_DASHBOARD

    ray_s_own = services.start_ray_process

    def start(command: Any, process_type: str, *arguments: Any, **options: Any) -> Any:
        process = ray_s_own(command, process_type, *arguments, **options)
        if process_type == PROCESS_TYPE_DASHBOARD:
            is_waiting.set()
        return process

    services.start_ray_process = start
    try:
        yield
    finally:
        services.start_ray_process = ray_s_own


@contextmanager
def importing_ray_train(is_waiting: threading.Event) -> Iterator[None]:
    """In a thread, once the event is set; the body sets it or ends."""

    def run() -> None:
        is_waiting.wait()
        with suppress(Exception):  # whoever needs it meets it again
            importlib.import_module("samtune.raylib.group_trainer")

    thread = threading.Thread(target=run, name="samtune-import", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_waiting.set()
        thread.join()
