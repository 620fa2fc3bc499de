"""The one door to Ray's private side: every undocumented name, environment variable and override, with its reason.

The rest of samtune uses Ray's public API or this package (`tests/raylib/test_names.py`). It knows clusters, nodes and
worker groups, and nothing of trials; it must not import torch, which the driver and Tune's actors do without.

- `names`, `environment`: what is used of Ray, as data.
- `cluster`: connects to a cluster, and says what it holds. `storage_check` and `runtime_env` prepare its nodes.
- `group_trainer`: Ray Train's data-parallel trainer, light and killable.
- `schedulers`, `population`: Tune's schedulers, mended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from samtune.lazy import lazy_exports

if TYPE_CHECKING:
    from samtune.raylib.cluster import (
        Cluster,
        Node,
        addable_nodes,
        connected,
        count_workers,
        gpus_per_worker,
        group_capacity,
        local_node,
        look_at_cluster,
    )
    from samtune.raylib.environment import GROUP_GENERATION, set_train_environment
    from samtune.raylib.group_trainer import GroupTrainer
    from samtune.raylib.storage_check import check_storage

__all__ = [
    "GROUP_GENERATION",
    "Cluster",
    "GroupTrainer",
    "Node",
    "addable_nodes",
    "check_storage",
    "connected",
    "count_workers",
    "gpus_per_worker",
    "group_capacity",
    "local_node",
    "look_at_cluster",
    "set_train_environment",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "Cluster": ".cluster",
        "Node": ".cluster",
        "addable_nodes": ".cluster",
        "connected": ".cluster",
        "count_workers": ".cluster",
        "gpus_per_worker": ".cluster",
        "group_capacity": ".cluster",
        "local_node": ".cluster",
        "look_at_cluster": ".cluster",
        "GROUP_GENERATION": ".environment",
        "set_train_environment": ".environment",
        "GroupTrainer": ".group_trainer",
        "check_storage": ".storage_check",
    },
)
