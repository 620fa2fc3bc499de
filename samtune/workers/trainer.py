"""Ray Train's data-parallel trainer without the processes and imports that a warm group has no use for.

`TorchTrainer` makes the driver and the controller import torch (2 s of CPU each) only to name its backend. Here the
same backend's functions are called by name on the workers, where torch is needed anyway.
"""

from __future__ import annotations

from typing import Any

import ray
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

# Each starts an actor process of its own. The cleaner removes the placement group of a controller that died; ours goes
# with its job. The data sets are Ray Data's, which is not used.
_UNUSED = (PlacementGroupCleanerCallback, DatasetsCallback)


class GroupTrainer(DataParallelTrainer):
    """A `TorchTrainer` in all but its imports. Takes the arguments of `DataParallelTrainer`."""

    def __init__(self, train_loop_per_worker: Any, **arguments: Any) -> None:
        super().__init__(train_loop_per_worker, backend_config=LazyTorchConfig(), **arguments)

    def _create_default_callbacks(self) -> list[Any]:
        return [c for c in super()._create_default_callbacks() if not isinstance(c, _UNUSED)]


class LazyTorchConfig(BackendConfig):
    """`TorchConfig` with its defaults: NCCL where the workers have GPUs, else gloo."""

    @property
    def backend_cls(self) -> type[Backend]:
        return LazyTorchBackend


class LazyTorchBackend(Backend):
    """Joins the workers into torch's default process group, and leaves it at the end."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        from ray.train._internal.utils import get_address_and_port

        backend = "nccl" if worker_group.get_resources_per_worker().get("GPU", 0) > 0 else "gloo"
        address, port = worker_group.execute_single(0, get_address_and_port)
        size = len(worker_group)
        ray.get([worker_group.execute_single_async(i, _join, backend, address, port, i, size) for i in range(size)])

    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:
        ray.get(worker_group.execute_async(_leave), timeout=5)


def _join(backend: str, address: str, port: int, rank: int, size: int) -> None:
    """On a worker: what `TorchConfig`'s backend does there."""
    import os

    from ray.train.torch import config

    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = address, str(port)
    config._set_torch_distributed_env_vars()
    config._setup_torch_process_group(backend, rank, size, init_method="env://")


def _leave() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
