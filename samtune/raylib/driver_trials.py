"""Tune's trainables in threads of the driver, instead of an actor each.

In a search a trainable only waits for what the coordinator says. As an actor it imports Ray Tune before it can do so
(1.4 CPU seconds and 150 MB for each trial under way), every epoch goes through one more process, and that can die.
"""

from __future__ import annotations

import time
import traceback
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from ray import cloudpickle, tune
from ray.air.execution._internal.tracked_actor import TrackedActor
from ray.exceptions import RayTaskError
from ray.train._internal.session import _FutureTrainingResult
from ray.tune.result import TRIAL_INFO


class DriverTrainable(tune.Trainable):
    """A trainable that `DriverTrials` runs."""

    def _setup_logdir(self) -> None:
        """Makes no folder, nor goes there: the working directory is the user's."""


@dataclass(eq=False)
class _Call:
    """A call of a trainable's method, and who hears of its end."""

    function: Callable[[], Any]
    on_result: Callable[[Any], None]
    on_error: Callable[[Exception], None]
    future: Future[Any] = field(default_factory=Future)
    is_heard: bool = True
    is_told: bool = False

    def run(self) -> None:
        """In the trainable's thread."""
        try:
            self.future.set_result(self.function())
        except BaseException as error:  # as Tune has it from an actor
            name = f"{type(error).__name__} in a trial"
            wrapped = RayTaskError(name, traceback.format_exc(), error)
            self.future.set_exception(error if isinstance(error, RayTaskError) else wrapped)

    def tell(self) -> None:
        """In Tune's thread."""
        self.is_told = True
        if not self.is_heard:
            return
        error = self.future.exception()
        if error is None:
            self.on_result(self.future.result())
        else:
            assert isinstance(error, Exception)
            self.on_error(error)


class _TrainableThread(Thread):
    """Runs a trainable's calls, one after another; the first makes it.

    Args:
        ended: where each call goes that has ended.
        after: an earlier trainable of the same trial, which has been told to end: nothing is called before it has.
    """

    def __init__(self, ended: SimpleQueue[_Call], after: _TrainableThread | None) -> None:
        super().__init__(name="trial", daemon=True)
        self._ended, self._after = ended, after
        self._trainable: Any = None
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._heard: list[_Call] = []
        self.start()

    def make(self, factory: Callable[[], Any]) -> None:
        self._trainable = factory()

    def call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return getattr(self._trainable, method)(*args, **kwargs)

    def submit(self, call: _Call) -> None:
        """From Tune's thread."""
        self._heard = [each for each in self._heard if not each.is_told] + [call]
        self._calls.put(call)

    def forget(self) -> None:
        """Nobody hears of the calls so far."""
        for call in self._heard:
            call.is_heard = False
        self._heard.clear()

    def end(self) -> None:
        """After the calls so far."""
        self._calls.put(None)

    def run(self) -> None:
        if self._after is not None:
            self._after.join()
        while (call := self._calls.get()) is not None:
            call.run()
            self._ended.put(call)
        self._trainable = self._after = None  # a trainable holds an actor of Ray's


class _Saving(_FutureTrainingResult):
    """A checkpoint that is being written, for a scheduler that waits for it."""

    def resolve(self, block: bool = True) -> Any:
        """What was saved; None where it could not be, or with `block` False is not yet."""
        try:
            call: Any = self.future
            return call.result(None if block else 0.0)
        except Exception:  # the trial fails of it: the controller hears of the call's end too
            return None


class DriverTrials:
    """Stands where Tune's controller has its `RayActorManager`, whose methods these are. Called from one thread.

    A trainable has a thread from `add_actor` to the end of the call after which it is removed.
    """

    num_pending_actors = 0

    def __init__(self) -> None:
        self._ended: SimpleQueue[_Call] = SimpleQueue()
        self._live: dict[TrackedActor, _TrainableThread] = {}
        self._failed: set[TrackedActor] = set()
        self._threads: dict[str, _TrainableThread] = {}  # that may be alive: the last of each trial

    @classmethod
    def of(cls, controller: Any) -> DriverTrials:
        """Has a controller of Tune's, which has started no trial yet, start its trials in threads of this process.

        It no longer keeps its own state while they run: where it would be is looked up at each step, and searches are
        restored from their journals.
        """
        own = controller._actor_manager = cls()
        save, checkpoint = controller._schedule_trial_save, controller.checkpoint

        def schedule_save(trial: Any, result: dict[str, Any] | None = None) -> _FutureTrainingResult | None:
            if (scheduled := save(trial, result)) is None:
                return None
            saving = trial.temporary_state.saving_to = _Saving(scheduled.future)
            return saving

        def checkpoint_at_end(force: bool = False, wait: bool = False) -> None:
            if force:
                checkpoint(force=force, wait=wait)

        controller._schedule_trial_save, controller.checkpoint = schedule_save, checkpoint_at_end
        return own

    # -- what the controller asks ------------------------------------------------------------------------------------

    @property
    def _live_actors_to_ray_actors_resources(self) -> Mapping[TrackedActor, tuple[None, None]]:
        """Of each actor its handle and its resources. There are none."""
        return dict.fromkeys(self._live, (None, None))

    @property
    def num_live_actors(self) -> int:
        return len(self._live)

    @property
    def num_total_actors(self) -> int:
        return len(self._live)

    @property
    def num_actor_tasks(self) -> int:
        return len(self._live)

    def get_live_actors_resources(self) -> dict[str, float]:
        return {}

    def add_actor(
        self,
        cls: Any,
        kwargs: dict[str, Any],
        resource_request: Any,
        *,
        on_start: Callable[[TrackedActor], None],
        on_stop: Callable[[TrackedActor], None],
        on_error: Callable[[TrackedActor, Exception], None],
    ) -> TrackedActor:
        """Makes a trainable; `next` tells whether that went well."""
        actor = TrackedActor(uuid.uuid4().int, on_start=on_start, on_stop=on_stop, on_error=on_error)
        trainable, own = cls.__ray_metadata__.modified_class, cloudpickle.dumps(kwargs)  # an actor would have a copy
        trial = kwargs.get("config", {}).get(TRIAL_INFO)
        name = trial.trial_id if trial is not None else uuid.uuid4().hex
        self._threads = {name: each for name, each in self._threads.items() if each.is_alive()}
        thread = _TrainableThread(self._ended, self._threads.get(name))
        self._live[actor] = self._threads[name] = thread
        make = partial(thread.make, lambda: trainable(**cloudpickle.loads(own)))
        thread.submit(_Call(make, lambda _: on_start(actor), partial(self._failed_to_start, actor)))
        return actor

    def _failed_to_start(self, actor: TrackedActor, error: Exception) -> None:
        self._failed.add(actor)
        self._live.pop(actor).end()
        if actor._on_error is not None:
            actor._on_error(actor, error)

    def schedule_actor_task(
        self,
        tracked_actor: TrackedActor,
        method_name: str,
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
        on_result: Callable[[TrackedActor, Any], None] | None = None,
        on_error: Callable[[TrackedActor, Exception], None] | None = None,
        _return_future: bool = False,
    ) -> Future[Any] | None:
        """Calls a method after the trainable's earlier calls; `next` tells of its end."""
        if tracked_actor in self._failed:
            return None
        thread = self._live[tracked_actor]
        call = _Call(
            partial(thread.call, method_name, args or (), kwargs or {}),
            lambda result: on_result(tracked_actor, result) if on_result else None,
            lambda error: on_error(tracked_actor, error) if on_error else None,
        )
        thread.submit(call)
        return call.future if _return_future else None

    def clear_actor_task_futures(self, tracked_actor: TrackedActor) -> None:
        """Tells of none of the calls so far."""
        if tracked_actor in self._live:
            self._live[tracked_actor].forget()

    def remove_actor(self, tracked_actor: TrackedActor, kill: bool = False, stop_future: Any = None) -> bool:
        """Ends a trainable after its calls so far; with `kill` without waiting for them.

        Returns:
            Whether `next` will tell of the end.
        """
        if tracked_actor in self._failed:
            return False
        thread = self._live[tracked_actor]
        thread.forget()
        last = _Call(lambda: None, lambda _: self._removed(tracked_actor), lambda _: None)
        if kill:
            last.run()
            self._ended.put(last)
        else:
            thread.submit(last)
        thread.end()
        return True

    def _removed(self, actor: TrackedActor) -> None:
        self._live.pop(actor, None)
        if actor._on_stop is not None:
            actor._on_stop(actor)

    def is_actor_started(self, tracked_actor: TrackedActor) -> bool:
        return tracked_actor in self._live

    def is_actor_failed(self, tracked_actor: TrackedActor) -> bool:
        return tracked_actor in self._failed

    def next(self, timeout: float | None = None) -> bool:
        """Waits for the end of a call and tells of it. Returns whether there was one."""
        try:
            call = self._ended.get(timeout=timeout)
        except Empty:
            return False
        call.tell()
        return True

    def cleanup(self) -> None:
        """Ends every trainable after its calls so far."""
        for thread in self._live.values():
            thread.forget()
            thread.end()
        self._live.clear()

    # -- what the search asks ----------------------------------------------------------------------------------------

    def join(self, timeout: float) -> None:
        """Waits for the threads to end, which `cleanup` has told to: none may be in Ray while Ray is shut down."""
        deadline = time.monotonic() + timeout
        for thread in self._threads.values():
            thread.join(max(0.0, deadline - time.monotonic()))
