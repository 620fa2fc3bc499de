"""What tests use of Ray although Ray does not document it: nowhere else in the tests."""

from __future__ import annotations

import time

import pytest
import ray
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.core.generated import autoscaler_pb2

from samtune.undocumented import Undocumented, Variable

__all__ = ["AutoscalingConfig", "prepare_config", "validate_config"]

_UTIL = "ray.autoscaler._private.util"
_CONFIG = "ray.autoscaler.v2.instance_manager.config:AutoscalingConfig"
_OFFLINE = "an offline check of a cluster.yaml"
_STATE_API = "the State API without a dashboard"

NAMES = (
    Undocumented(f"{_UTIL}:prepare_config", "cluster.yaml by Ray's own loader", _OFFLINE, "(1)"),
    Undocumented(f"{_UTIL}:validate_config", "cluster.yaml by Ray's own schema", _OFFLINE, "(1)"),
    Undocumented(_CONFIG, "what the autoscaler makes of cluster.yaml", _OFFLINE, "(1, skip_content_hash=True)"),
    Undocumented(f"{_CONFIG}.get_node_type_configs", "likewise", _OFFLINE, "(self)"),
    Undocumented(f"{_CONFIG}.get_idle_timeout_s", "likewise", _OFFLINE, "(self)"),
    Undocumented("ray._private.worker:_global_node", "the processes of a Ray of this machine", _STATE_API),
    Undocumented("ray._private.state:actors", "the nodes of the workers", _STATE_API, "()"),
    Undocumented("ray._raylet:GcsClient", "a spot node is about to be taken away", "a public drain request"),
)
START_TIMEOUT = Variable(
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S",
    "ray.train.v2._internal.constants",
    "a busy machine frees places late",
    "600",
)
VARIABLES = (
    Variable("RAY_UP_enable_autoscaler_v2", "ray.autoscaler._private.commands", "v2 starts no worker on loopback", "0"),
    START_TIMEOUT,
)


def raylet_pid() -> int:
    """The process from which all workers of this test's Ray descend."""
    pid: int = ray._private.worker._global_node.all_processes["raylet"][0].process.pid
    return pid


def node_of_the_worker() -> str:
    """Where the only worker of this process's search runs."""
    actors = ray._private.state.actors().values()
    alive = [actor for actor in actors if actor["State"] == "ALIVE" and "RayTrainWorker" in actor["ActorClassName"]]
    return str(alive[-1]["Address"]["NodeID"])


def drain_spot_node(address: str, node: str) -> None:
    """What the autoscaler, or a handler of the cloud's notice, tells Ray two minutes before a node goes."""
    client = ray._raylet.GcsClient(address=address)
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    accepted, problem = client.drain_node(node, reason, "spot", int(time.time() * 1000) + 120_000)
    assert accepted, problem


def set_cluster_config(monkeypatch: pytest.MonkeyPatch, groups: dict[str, tuple[int, dict[str, int]]] | None) -> None:
    """Has Ray's autoscaler say that it may run so many nodes of each kind; None: that there is no autoscaler."""
    config = None
    if groups is not None:
        config = autoscaler_pb2.ClusterConfig()
        for name, (count, resources) in groups.items():
            group = config.node_group_configs.add(name=name, max_count=count)
            group.resources.update(resources)
    monkeypatch.setattr(ray._private.state.state, "get_cluster_config", lambda: config)
