"""A search follows its cluster: nodes come and go while it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from samtune.formatting import counted
from samtune.raylib.cluster import Cluster, Node, look_at_cluster

if TYPE_CHECKING:
    from samtune.workers.pool import WorkerPool

INTERVAL_SECONDS = 1.0


class ElasticityThread:
    """Starts a group for every place that a new node has, and tells the coordinator of nodes that go.

    Args:
        most: groups that the search may have in all.
        say: called with one line when groups are added.
        look: called each second with the nodes that are to stay.
    """

    def __init__(
        self, pool: WorkerPool, most: int, say: Callable[[str], None], look: Callable[[list[Node]], None] | None = None
    ) -> None:
        self._pool, self._most, self._say, self._look = pool, most, say, look
        self._cluster, self._num_groups = look_at_cluster(), pool.num_groups
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cluster", daemon=True)
        self.num_placed = self._count_placed(self._cluster)
        """Groups that the present nodes hold, at least one: the number of trials worth proposing at once."""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Waits for the thread: it must not be in Ray when Ray is shut down."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        import ray

        while not self._stopping.wait(INTERVAL_SECONDS):
            # A busy or lost cluster does not answer: the next look will tell, or others will say so.
            with suppress(ray.exceptions.RayError, ConnectionError):
                self._follow(cluster := look_at_cluster())
                if self._look is not None:
                    self._look(list(cluster.nodes.values()))

    def _follow(self, cluster: Cluster) -> None:
        import ray

        before = self._cluster
        living = cluster.nodes.keys() | cluster.draining
        gone = (before.nodes.keys() | before.draining) - living
        if gone or cluster.draining != before.draining:
            ray.get(self._pool.coordinator.nodes_changed.remote(gone, set(cluster.draining)))
        self._cluster = cluster
        wanted = min(self._pool.capacity(cluster.nodes.values()), self._most)
        if wanted > self._num_groups:
            added = wanted - self._num_groups
            self._say(f"nodes were added: starting {counted(added, 'more worker group')}")
            self._pool.grow(wanted)
            self._num_groups = wanted
        self.num_placed = self._count_placed(cluster)

    def _count_placed(self, cluster: Cluster) -> int:
        return max(1, min(self._pool.capacity(cluster.nodes.values()), self._num_groups))
