"""Notices within seconds that the cluster is gone.

Ray's own core notices too: it waits for a minute for a lost GCS, or ends the process at once, with lines of C++ and
without a chance to save anything. This thread is faster.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

_LOCAL_SECONDS = 0.1  # between two looks at processes of this machine
_REMOTE_SECONDS = 2.0
_REMOTE_TRIES = 5  # in a row: a busy network loses a connection now and then

_ESSENTIAL = {"gcs_server": "Ray's head process (gcs_server)", "raylet": "Ray's node process (raylet)"}
"""The processes without which there is no cluster, by Ray's name, and what they are called here."""


class ClusterLossThread(threading.Thread):
    """Calls a function, once, when the connected cluster is lost.

    Of a cluster that this process has started it watches the processes; of any other the port of its head.
    """

    def __init__(self, on_loss: Callable[[str], None]) -> None:
        super().__init__(name="samtune-cluster-loss", daemon=True)
        self._on_loss, self._stopping = on_loss, threading.Event()
        self._processes = [(name, process) for name, process in _own_processes() if name in _ESSENTIAL]

    def stop(self) -> None:
        """Before the cluster is shut down in order."""
        self._stopping.set()
        if self.ident is not None and threading.current_thread() is not self:
            self.join()

    def run(self) -> None:
        lost = self._watch_processes() if self._processes else self._watch_head()
        if lost is not None:
            self._on_loss(lost)

    def _watch_processes(self) -> str | None:
        while not self._stopping.wait(_LOCAL_SECONDS):
            for name, process in self._processes:
                if process.poll() is not None:
                    return f"{_ESSENTIAL[name]} ended"
        return None

    def _watch_head(self) -> str | None:
        import ray

        address = ray.get_runtime_context().gcs_address
        host, _, port = address.rpartition(":")
        failures = 0
        while not self._stopping.wait(_REMOTE_SECONDS):
            try:
                socket.create_connection((host.strip("[]"), int(port)), timeout=_REMOTE_SECONDS).close()
                failures = 0
            except OSError:
                failures += 1
            if failures == _REMOTE_TRIES:
                return f"the head of the Ray cluster at {address} no longer answers"
        return None


def _own_processes() -> list[tuple[str, Any]]:
    """Ray's name of each process of the cluster, if this process has started it, and its subprocess.Popen."""
    import ray

    node = ray._private.worker._global_node
    if node is None:
        return []
    return [(name, info.process) for name, infos in node.all_processes.items() for info in infos]


def kill_own_cluster() -> None:
    """Ends what is left of a cluster that this process has started."""
    import psutil

    left: list[psutil.Process] = []
    for _, started in _own_processes():
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(started.pid)
            left += [*process.children(recursive=True), process]
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
