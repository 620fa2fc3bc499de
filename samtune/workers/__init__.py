"""Warm worker groups: Ray Train groups that live as long as the search and train one trial after another.

    Trainable ──assign──▶ Coordinator (one zero-CPU actor) ◀──asks── every worker of every group
        ▲                    │  state, not a queue                    │
        └────── records ─────┘◀────────── one record an epoch ────────┘

`coordinator_state` holds who trains what, `group_sizes` with how many workers, `coordinator` answers questions about
both, `protocol` has the messages between them, `worker_loop` runs on every worker, and `pool` starts and ends the
groups from the driver; `elasticity` follows the nodes of the cluster, `events` passes the coordinator's lines on.

Knows Ray's actors and Ray Train; must not import Ray Tune or MLflow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from samtune.lazy import lazy_exports

if TYPE_CHECKING:
    from samtune.workers.coordinator import Coordinator
    from samtune.workers.elasticity import ElasticityThread
    from samtune.workers.events import EventThread
    from samtune.workers.pool import WorkerPool
    from samtune.workers.protocol import Assignment, Failure, Outcome, Progress, Reply, WorkerId

__all__ = [
    "Assignment",
    "Coordinator",
    "ElasticityThread",
    "EventThread",
    "Failure",
    "Outcome",
    "Progress",
    "Reply",
    "WorkerId",
    "WorkerPool",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "Coordinator": ".coordinator",
        "ElasticityThread": ".elasticity",
        "EventThread": ".events",
        "WorkerPool": ".pool",
        "Assignment": ".protocol",
        "Failure": ".protocol",
        "Outcome": ".protocol",
        "Progress": ".protocol",
        "Reply": ".protocol",
        "WorkerId": ".protocol",
    },
)
