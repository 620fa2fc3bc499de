"""Ray Train's data-parallel trainer without the processes and imports that a warm group has no use for.

`TorchTrainer` makes the driver and the controller import torch (2 s of CPU each) only to name its backend. Here the
same backend's functions are called by name on the workers, where torch is needed anyway.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psutil
import ray
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import get_env_vars_to_propagate
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import ScalingDecision
from ray.train.v2._internal.execution.scaling_policy.fixed import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from samtune.raylib.cluster import is_own_cluster
from samtune.raylib.driver_controller import DriverController, LocalWorkerGroup
from samtune.raylib.environment import CONTROLLER_LOGGING, GROUP_GENERATION, WARN_BLOCKING
from samtune.raylib.newcomers import refuse_newcomers

# Each starts an actor process of its own. The cleaner removes the placement group of a controller that died; ours goes
# with its job. The data sets are Ray Data's, which is not used.
_UNUSED = (PlacementGroupCleanerCallback, DatasetsCallback)
# `TorchConfig`'s. The store's too: NCCL's ranks meet at the first collective, which may have to wait for data.
_COLLECTIVE_TIMEOUT = timedelta(minutes=30)
LOOPBACK_ADDRESS = "127.0.0.1"
_BACKLOG = 1024


class GroupTrainer(DataParallelTrainer):
    """A `TorchTrainer` in all but its imports. Takes the arguments of `DataParallelTrainer`.

    Args:
        size: asked before each start of the workers how many there are to be; None: as many as `scaling_config` says.
        in_driver: whether Ray Train's controller is to run in the calling thread, see `DriverController`. On a cluster
            that others use as well it is an actor all the same.
    """

    def __init__(
        self,
        train_loop_per_worker: Any,
        *,
        size: Callable[[], int] | None = None,
        in_driver: bool = False,
        **arguments: Any,
    ) -> None:
        super().__init__(train_loop_per_worker, backend_config=LazyTorchConfig(), **arguments)
        self._size, self._in_driver = size, in_driver and is_own_cluster()
        self._controller: Any = None
        self._killed = False

    def kill(self) -> None:
        """Ends the group at once, wherever it is: its controller dies, and with it the workers it owns.

        `fit` then raises in its thread, which must be out of Ray before Ray is shut down: a call into a core that was
        shut down ends the whole process.
        """
        self._killed = True
        if isinstance(self._controller, DriverController):
            self._controller.kill()
        elif self._controller is not None:
            ray.kill(self._controller)

    def expect_end(self) -> None:
        """The workers have been told to end: `fit` is to return soon after they do."""
        if isinstance(self._controller, DriverController):
            self._controller.expect_end()

    def free_resources(self) -> None:
        """Removes the placement groups that a controller left behind which died on its own.

        Ray removes them only once the whole job has ended; until then no other group can have their resources.
        """
        from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # type: ignore[attr-defined]
        from ray.util.placement_group import PlacementGroup

        if self._controller is None or isinstance(self._controller, DriverController):
            return
        for row in ray._private.state.state._connect_and_get_accessor().get_placement_group_table():
            group = PlacementGroupTableData.FromString(row)
            if group.creator_actor_id == self._controller._actor_id.binary():
                ray.util.remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        """As in the base class, but the controller can be killed, and no signal handler is installed."""
        if self._in_driver:
            return self._run_in_driver(**arguments)
        node = ray.get_runtime_context().get_node_id()
        options: dict[str, Any] = {
            "num_cpus": 0,
            "label_selector": {ray._raylet.RAY_NODE_ID_KEY: node},  # type: ignore[attr-defined]
        }
        controller, policy = TrainController, SizedScalingPolicy
        if is_own_cluster():
            controller, policy = LocalController, LocalScalingPolicy
        else:
            options["runtime_env"] = {"env_vars": get_env_vars_to_propagate() | {WARN_BLOCKING.name: "0"}}
        arguments["scaling_policy"] = policy(arguments["scaling_policy"].scaling_config, self._size)
        self._controller = ray.remote(controller).options(**options).remote(**arguments)
        if self._killed:
            self.kill()
        ray.get(self._controller.run.remote())
        return ray.get(self._controller.get_result.remote())

    def _run_in_driver(self, **arguments: Any) -> Any:
        os.environ.setdefault(CONTROLLER_LOGGING.name, CONTROLLER_LOGGING.value or "")
        arguments["scaling_policy"] = LocalScalingPolicy(arguments["scaling_policy"].scaling_config, self._size)
        self._controller = DriverController(**arguments)
        if self._killed:
            self.kill()
        return self._controller.finish()

    def _create_default_callbacks(self) -> list[Any]:
        return [c for c in super()._create_default_callbacks() if not isinstance(c, _UNUSED)]


class SizedScalingPolicy(FixedScalingPolicy):
    """Starts as many workers as it is told; of a group that runs it changes nothing.

    Args:
        size: see `GroupTrainer`.
    """

    def __init__(self, scaling_config: Any, size: Callable[[], int] | None) -> None:
        super().__init__(scaling_config)
        self._size = size

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        if self._size is not None:
            self.scaling_config = replace(self.scaling_config, num_workers=self._size())
        return super().make_decision_for_non_running_worker_group()


class LocalScalingPolicy(SizedScalingPolicy):
    """Asks for no nodes: Ray Train's own starts an actor that adds up what an autoscaler is asked for."""

    def after_controller_start(self, train_run_context: Any) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass


class LocalController(TrainController):
    """Ray Train's controller, of such workers."""

    worker_group_cls = LocalWorkerGroup


class LazyTorchConfig(BackendConfig):
    """`TorchConfig` with its defaults: NCCL where the workers have GPUs, else gloo."""

    @property
    def backend_cls(self) -> type[Backend]:
        return LazyTorchBackend


class LazyTorchBackend(Backend):
    """Joins the workers into torch's default process group, and leaves it at the end."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        backend = "nccl" if worker_group.get_resources_per_worker().get("GPU", 0) > 0 else "gloo"
        size, generation = len(worker_group), uuid.uuid4().hex
        # All at once, since each imports torch.
        nodes = ray.get([worker_group.execute_single_async(i, _prepare) for i in range(size)])
        host = LOOPBACK_ADDRESS if len(set(nodes)) == 1 else nodes[0][1]
        address = (host, ray.get(worker_group.execute_single_async(0, _open_store, host)))
        arguments = (backend, address, generation)
        ray.get([worker_group.execute_single_async(i, _join, *arguments, i, size) for i in range(size)])
        if backend == "gloo":  # which has all its connections; NCCL's threads make more, later
            ray.get(worker_group.execute_single_async(0, _close_store))

    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:
        # Workers that do not answer are ended in any case; the error would end the group for good.
        with suppress(ray.exceptions.GetTimeoutError):
            ray.get(worker_group.execute_async(_leave), timeout=5)


_store: Any = None
_listener: socket.socket | None = None
"""On rank 0's worker: the store through which the ranks meet, and the socket that it listens on."""


def _prepare() -> tuple[str, str]:
    """On a worker: imports torch. Returns the id and the address of its node."""
    import torch.distributed  # noqa: F401

    return ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()


def _open_store(host: str) -> int:
    """On rank 0's worker: serves the store at this address alone, and returns its port.

    torch would listen on all interfaces, and whoever reaches a store can read it, write it, and fill its memory.
    """
    import torch.distributed as dist

    global _store, _listener
    family, _, _, _, where = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.bind(where)
    listener.listen(_BACKLOG)
    port: int = listener.getsockname()[1]
    _listener = listener.dup()
    _store = dist.TCPStore(  # type: ignore[attr-defined]
        host,
        port,
        is_master=True,
        wait_for_workers=False,
        timeout=_COLLECTIVE_TIMEOUT,
        master_listen_fd=listener.detach(),
    )
    return port


def _close_store() -> None:
    """On rank 0's worker, when all ranks are there: others can no longer connect to the store."""
    if _listener is not None:
        refuse_newcomers(_listener)


def _stay_on_loopback() -> None:
    """Of a group on one node: gloo and NCCL listen where the store does. A setting of the user's is kept."""
    interfaces = psutil.net_if_addrs().items()
    name = next((name for name, each in interfaces if any(a.address == LOOPBACK_ADDRESS for a in each)), None)
    if name is not None:
        for library in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", name)


def _join(backend: str, address: tuple[str, int], generation: str, rank: int, size: int) -> None:
    """On a worker: what `TorchConfig`'s backend does there; and the name of this generation of the group."""
    import torch.distributed as dist
    from ray.train.torch import config

    host, port = address
    if host == LOOPBACK_ADDRESS:
        _stay_on_loopback()
    os.environ[GROUP_GENERATION] = generation
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = host, str(port)
    config._set_torch_distributed_env_vars()
    store = _store
    if rank > 0:
        store = dist.TCPStore(host, port, is_master=False, timeout=_COLLECTIVE_TIMEOUT)  # type: ignore[attr-defined]
    # The name is known to this group alone: on several nodes, others can reach the store.
    store = dist.PrefixStore(generation, store)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_COLLECTIVE_TIMEOUT)


def _leave() -> None:
    import torch.distributed as dist

    global _store, _listener
    if dist.is_initialized():
        dist.destroy_process_group()
    _store = None
    if _listener is not None:
        _listener.close()
        _listener = None
