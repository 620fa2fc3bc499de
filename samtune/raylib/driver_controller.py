"""Ray Train's controller of a worker group in the driver, on a cluster that the driver has started.

In an actor of its own, as Ray Train has it, it imports Ray Train again before the first worker can start, and so does
its barrier, which nothing in a search asks. Both would die with the driver in any case.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import ray
from ray.exceptions import AsyncioActorExit
from ray.train.v2._internal.execution.checkpoint.sync_actor import SynchronizationActor
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.worker_group import WorkerGroup, state
from ray.train.v2._internal.logging.logging import SessionFileHandler

MOST_CONTROLLERS = 8
"""Each asks its workers once a second. Many of them together would keep the driver's interpreter busy."""

_ASK_SECONDS = 1.0  # a question costs three processes 5 ms in all, and the training its core meanwhile
_LOOK_SECONDS = 0.1


class GroupKilledError(AsyncioActorExit):
    """The group was ended; of a kind that Ray Train's controller passes on without another attempt."""


class DriverController(TrainController):
    """Runs in the thread that calls `finish`. Takes the arguments of `TrainController`."""

    def __init__(self, **arguments: Any) -> None:
        self.is_killed = self.is_ending = False
        self._reserved: Any = None

        class OwnWorkerGroup(_DriverWorkerGroup):
            controller = self

        self.worker_group_cls = OwnWorkerGroup
        super().__init__(**arguments)

    def finish(self) -> Any:
        """Starts the workers, replaces them as the failure policy says, and returns the result when they are done."""
        with _own_log_file(f"ray-train-controller-{self._train_run_context.run_config.name}.log"):
            asyncio.run(self.run())  # type: ignore[no-untyped-call]
        return self.get_result()

    def kill(self) -> None:
        """Ends the workers at once, from any thread; `finish` then raises GroupKilledError."""
        self.is_killed = True
        if self._reserved is not None:
            self._reserved.shutdown()  # with a placement group end the processes in it

    def expect_end(self) -> None:
        """The workers are about to end by themselves: they are asked more often. From any thread."""
        self.is_ending = True

    def reserve(self, placement_group: Any) -> None:
        """Notes what the workers are about to be started in."""
        self._reserved = placement_group
        if self.is_killed:  # meanwhile
            self.kill()

    async def _poll_workers(self) -> Any:
        """Whether workers have ended, or are lost: asked at longer intervals while they train."""
        due = self._latest_poll_time + _ASK_SECONDS
        while time.monotonic() < due and not (self.is_ending or self.is_killed):
            await asyncio.sleep(_LOOK_SECONDS)
        return await super()._poll_workers()

    async def _step(self) -> Any:
        try:
            result = await super()._step()
        except Exception as error:
            if self.is_killed:
                raise GroupKilledError from error
            raise
        if self.is_killed:
            raise GroupKilledError
        return result


@contextmanager
def _own_log_file(name: str) -> Iterator[None]:
    """What Ray Train logs in this thread goes to a file of the cluster's session, as that of its actors does."""
    logger, thread = logging.getLogger(TrainController.__module__.partition(".controller")[0]), threading.get_ident()
    handler = SessionFileHandler(name)
    handler.addFilter(lambda record: record.thread == thread)
    logger.addHandler(handler)
    if logger.propagate:  # in a driver, nothing else logs there
        logger.propagate = False
        logger.addHandler(logging.NullHandler())  # else Python writes to stderr what comes when the file is gone
    try:
        yield
    finally:
        logger.removeHandler(handler)


class LazyBarrier:
    """Stands where Ray Train has the handle of its barrier, an actor that starts when a worker first calls it.

    A worker calls it in `ray.train.report` and `ray.train.collective`, which samtune does not use.
    """

    def __init__(self, arguments: dict[str, Any]) -> None:
        self._name, self._arguments = f"barrier-{uuid.uuid4().hex}", arguments

    @classmethod
    def options(cls, **_: Any) -> type[LazyBarrier]:
        return cls

    @classmethod
    def remote(cls, **arguments: Any) -> LazyBarrier:
        return cls(arguments)

    def __getattr__(self, method: str) -> Any:
        if method.startswith("__"):
            raise AttributeError(method)
        options = {"name": self._name, "get_if_exists": True}
        actor = SynchronizationActor.options(**options).remote(**self._arguments)  # type: ignore[attr-defined]
        self.__dict__["_handle"] = actor  # it lives as long as the first that asked for it
        return getattr(actor, method)


class _State(state.WorkerGroupState):
    """Of workers without an actor for their barrier."""

    def shutdown(self) -> None:
        state._shutdown_workers(self.workers)
        self.placement_group_handle.shutdown()


class _StateBuilder(state.WorkerGroupStateBuilder):
    def build(self) -> _State:
        return _State(**vars(super().build()))

    def shutdown(self) -> None:
        self.sync_actor = None
        super().shutdown()  # type: ignore[no-untyped-call]


class LocalWorkerGroup(WorkerGroup):
    """Workers that have their environment variables from the cluster, which this process started with them.

    Ray starts a process that has a runtime environment by another process, and takes none that is in reserve.
    """

    @staticmethod
    def _get_worker_runtime_env(custom_runtime_env: Any) -> Any:
        return custom_runtime_env


class _DriverWorkerGroup(LocalWorkerGroup):
    """Such workers, of a controller that is no actor."""

    controller: DriverController

    # Ray Train's function, in which the name of the barrier's class means another. A copy of its hundred lines would
    # have to follow Ray's; the name set in Ray's module would be another for everybody in this process.
    _start_impl = FunctionType(
        WorkerGroup._start_impl.__code__, WorkerGroup._start_impl.__globals__ | {"SynchronizationActor": LazyBarrier}
    )

    def _start(self) -> None:
        builder = _StateBuilder()  # type: ignore[no-untyped-call]
        try:
            self._start_impl(builder)
        except Exception:
            if not self.has_started():
                builder.shutdown()
            raise

    def _create_placement_group(self, *arguments: Any) -> Any:
        handle = super()._create_placement_group(*arguments)
        self.controller.reserve(handle)
        return handle

    def _init_train_context_on_workers(
        self, workers: list[Any], sync_actor: Any, train_context_args: dict[str, list[Any]]
    ) -> None:
        """As in the base class, but the workers get no handle of the controller: they would ask it for checkpoints."""
        started = [
            worker.actor.init_train_context.remote(
                train_run_context=self._train_run_context,
                distributed_context=worker.distributed_context,
                synchronization_actor=sync_actor,
                storage_context=self._storage_context,
                worker_callbacks=self._worker_callbacks_to_propagate,
                controller_actor=None,
                **{name: values[index] for name, values in train_context_args.items()},
            )
            for index, worker in enumerate(workers)
        ]
        ray.get(started)
        self._decorate_worker_log_file_paths(workers)
