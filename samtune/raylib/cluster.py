"""The Ray cluster a search runs on: found or started, and what it can hold."""

from __future__ import annotations

import gc
import logging
import math
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samtune.config.search import ResourcesConfig
from samtune.errors import ResourceError, RunError, UsageError
from samtune.formatting import counted, first_line
from samtune.raylib.environment import search_environment, set_token, set_train_environment, start_environment
from samtune.raylib.start_waits import importing_ray_train, telling_of_the_wait, without_long_waits
from samtune.raylib.unused_processes import without_unused_processes
from samtune.user_path import is_beside_user_code

_MANY_NODES = 1000  # where an autoscaler has no limit


@dataclass(frozen=True)
class Node:
    """What one machine offers."""

    cpus: float
    gpus: float


def local_node() -> Node:
    """This machine, as Ray would count it."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # where there is a cgroup v2 limit
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        cpus = max(1, min(cpus, math.ceil(int(quota) / int(period))))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        gpus = len([device for device in visible.split(",") if device.strip() not in ("", "-1", "NoDevFiles")])
    else:
        folder = Path("/proc/driver/nvidia/gpus")
        gpus = len(list(folder.iterdir())) if folder.is_dir() else 0
    return Node(float(cpus), float(gpus))


@dataclass(frozen=True)
class Cluster:
    """The nodes of the connected cluster.

    Attributes:
        nodes: by their ids, those that live and are to stay.
        draining: ids of living nodes that are about to be taken away.
    """

    nodes: dict[str, Node]
    draining: frozenset[str]


def look_at_cluster() -> Cluster:
    """The cluster as it is now."""
    import ray

    draining = frozenset(ray._private.state.state.get_draining_nodes())
    nodes = {
        node["NodeID"]: Node(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
        for node in ray.nodes()
        if node["Alive"]
    }
    return Cluster({key: node for key, node in nodes.items() if key not in draining}, draining & nodes.keys())


def addable_nodes() -> list[Node]:
    """What the cluster's autoscaler may still start; none where there is no autoscaler."""
    import ray

    config = ray._private.state.state.get_cluster_config()
    if config is None:
        return []
    running = Counter(node["Labels"].get("ray.io/node-group") for node in ray.nodes() if node["Alive"])
    added = []
    for group in config.node_group_configs:
        most = _MANY_NODES if group.max_count < 0 else group.max_count
        node = Node(float(group.resources.get("CPU", 0)), float(group.resources.get("GPU", 0)))
        added += [node] * max(0, most - running[group.name])
    return added


def gpus_per_worker(resources: ResourcesConfig, nodes: list[Node]) -> float:
    """The number of GPUs a worker takes: `auto` is 1 where there are GPUs, else 0, as is an unmeasured `share`."""
    if isinstance(resources.gpus_per_worker, str):  # auto, share
        return 1.0 if any(node.gpus for node in nodes) else 0.0
    return resources.gpus_per_worker


def group_capacity(resources: ResourcesConfig, nodes: list[Node]) -> int:
    """How many worker groups the nodes hold side by side. A worker never spans nodes; a group may.

    Raises:
        ResourceError: not even one.
    """
    gpus = gpus_per_worker(resources, nodes)
    slots = count_workers(resources.cpus_per_worker, gpus, nodes)
    if slots < resources.least_workers:
        count = counted(resources.least_workers, "worker")
        each = f"{resources.cpus_per_worker:g} CPU" + (f" and {gpus:g} GPU" if gpus else "")
        has = " + ".join(f"{n.cpus:g} CPU" + (f" and {n.gpus:g} GPU" if gpus else "") for n in nodes) or "no node"
        raise ResourceError(
            f"resources.num_workers: {count} of {each} each can never be placed: the cluster "
            f"has {has}, room for {slots}; lower {_too_much(gpus, nodes)}"
        )
    return slots // resources.least_workers


def count_workers(cpus: float, gpus: float, nodes: Iterable[Node]) -> int:
    """How many workers with these CPUs and GPUs the nodes hold. A fraction of a GPU is of one card."""
    slots = 0
    for node in nodes:
        by_cpu = math.floor(node.cpus / cpus + 1e-9)
        slots += min(by_cpu, _by_gpu(node.gpus, gpus)) if gpus else by_cpu
    return slots


def _by_gpu(cards: float, gpus: float) -> int:
    if gpus < 1:
        return math.floor(cards) * math.floor(1 / gpus + 1e-9) + math.floor(cards % 1 / gpus + 1e-9)
    return math.floor(cards / gpus + 1e-9)


def _too_much(gpus: float, nodes: list[Node]) -> str:
    """The keys whose value asks for more than there is."""
    if gpus and not any(node.gpus >= gpus for node in nodes):
        return "resources.gpus_per_worker (0 trains on CPUs)"
    return "num_workers or resources.cpus_per_worker"


_is_own = False


@contextmanager
def connected(
    address: str | None, code: Callable[[], dict[str, Any]] = dict, is_waiting: threading.Event | None = None
) -> Iterator[None]:
    """Connects to Ray for the duration of a search, and leaves as found.

    Args:
        address: of a running cluster, `auto` for the one on this machine, `local` for a new one. None: the running
            one if there is one, else a new one that ends with the search.
        code: gives Ray's runtime environment; asked where the cluster is not a new one.
        is_waiting: is set when this thread does nothing but wait for other processes, or is done.

    Raises:
        UsageError: no cluster answers at the address.
        RunError: a new one could not be started.
    """
    with search_environment():
        import ray

        is_waiting = is_waiting or threading.Event()
        if ray.is_initialized():
            is_waiting.set()
            yield
            return
        global _is_own
        try:
            _is_own = _connect(address, code, is_waiting) == "local"
        finally:
            is_waiting.set()
        try:
            yield
        finally:
            _is_own = False
            # The next search in this process may start a cluster whose actors have the same ids again (they are counted
            # from 1): a handle that is thrown away only then would end one of them.
            gc.collect()
            ray.shutdown()


def is_own_cluster() -> bool:
    """Whether the connected cluster was started here: its one node never changes, and has this process's variables."""
    return _is_own


def own_session_folder() -> str | None:
    """Where a cluster that was started here keeps its files, its logs among them; None of another."""
    import ray

    node: Any = ray._private.worker._global_node
    return str(node.get_session_dir_path()) if _is_own else None


def _connect(address: str | None, code: Callable[[], dict[str, Any]], is_waiting: threading.Event) -> str:
    """Connects. Returns the address; `local` where a cluster was started."""
    import ray

    wanted = address or os.environ.get("RAY_ADDRESS")
    found = _running_here() if wanted in (None, "auto") else wanted
    if found is None and wanted == "auto":
        raise UsageError("no Ray cluster runs on this machine", argument="address", value=wanted)
    address = found or "local"
    _check_reachable(address)
    options: dict[str, Any] = {
        "logging_level": logging.ERROR,
        "log_to_driver": False,
        "include_dashboard": False,
        "configure_logging": True,
    }
    if not is_beside_user_code():
        from samtune.raylib.job_config import IsolatedJobConfig

        options["job_config"] = IsolatedJobConfig()
    if address == "local":
        set_token()
        set_train_environment()
    environment = code() if address != "local" else {}
    if environment:
        options["runtime_env"] = environment
    try:
        with ExitStack() as while_it_starts:
            if address == "local":
                while_it_starts.enter_context(start_environment())
                while_it_starts.enter_context(_on_loopback())
                while_it_starts.enter_context(without_unused_processes())
                while_it_starts.enter_context(without_long_waits())
                while_it_starts.enter_context(telling_of_the_wait(is_waiting))
                while_it_starts.enter_context(importing_ray_train(is_waiting))
            ray.init(address=address, **options)
    except ray.exceptions.RuntimeEnvSetupError as error:
        raise UsageError(f"the space's own code cannot be sent to the cluster: {_first_line(error)}") from error
    except Exception as error:
        if address == "local":  # ray.init raises many kinds, a bare Exception among them
            raise RunError(f"Ray could not be started on this machine: {_first_line(error)}") from error
        if not isinstance(error, (ConnectionError, RuntimeError, ValueError)):
            raise
        raise UsageError(f"no Ray cluster answers: {_first_line(error)}", argument="address", value=address) from error
    return address


@contextmanager
def _on_loopback() -> Iterator[None]:
    """A cluster that is started in the body listens on loopback alone: nobody else is to join it, or to talk to it.

    Ray has this as its way on Windows and macOS, and else binds most of its ports to all interfaces. The processes that
    it starts read a variable (see `START_VARIABLES`), which this constant was read from when Ray was imported here.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _running_here() -> str | None:
    """The address of the cluster that `ray start` made on this machine; None where none answers.

    A cluster that was killed leaves its address behind, and Ray would try that for minutes.
    """
    from ray._private.utils import read_ray_address

    address: str | None = read_ray_address()
    if address:
        with suppress(UsageError):
            _check_reachable(address)
            return address
    return None


def _check_reachable(address: str) -> None:
    """Ray waits for minutes for a cluster that is not there; a port that answers shows in seconds."""
    if address == "local":
        return
    if "://" in address:
        raise UsageError(
            "must be host:port, auto or local (Ray Client cannot run Ray Train)", argument="address", value=address
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError("must be host:port, auto or local", argument="address", value=address)
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError as error:
        raise UsageError(
            f"no Ray cluster answers: {error.strerror or error}", argument="address", value=address
        ) from error


def _first_line(error: Exception) -> str:
    return first_line(str(error)) or type(error).__name__
