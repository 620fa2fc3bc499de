"""How often Ray Train's controller in the driver asks its workers: rarely while they train, at once when they end."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from ray.train.v2._internal.execution.controller import TrainController

from samtune.raylib import driver_controller
from samtune.raylib.driver_controller import DriverController


class Clock:
    """Time that passes in sleep alone."""

    def __init__(self) -> None:
        self.now = 100.0

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(driver_controller, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(driver_controller, "asyncio", SimpleNamespace(sleep=clock.sleep))

    async def poll(controller: Any) -> str:
        controller._latest_poll_time = clock.now
        return "asked"

    monkeypatch.setattr(TrainController, "_poll_workers", poll)
    return clock


def make_controller() -> Any:
    controller: Any = object.__new__(DriverController)
    controller.is_killed = controller.is_ending = False
    controller._latest_poll_time = float("-inf")
    return controller


def test_workers_that_train_are_asked_once_a_second(clock: Clock) -> None:
    controller = make_controller()
    times = []
    for _ in range(4):
        assert asyncio.run(controller._poll_workers()) == "asked"
        times.append(clock.now)
    assert times[0] == 100.0  # the first is asked as soon as they are there
    waits = [later - earlier for earlier, later in pairwise(times)]
    assert waits == pytest.approx([1.0] * 3, abs=0.11)


@pytest.mark.parametrize("how", ["is_ending", "is_killed"])
def test_workers_that_end_are_asked_at_once(clock: Clock, how: str) -> None:
    controller = make_controller()
    asyncio.run(controller._poll_workers())

    async def ends_meanwhile(seconds: float) -> None:
        clock.now += seconds
        setattr(controller, how, True)

    driver_controller.asyncio.sleep = ends_meanwhile  # type: ignore[assignment]
    asyncio.run(controller._poll_workers())
    assert clock.now == pytest.approx(100.0 + driver_controller._LOOK_SECONDS)


def test_the_questions_use_the_clock_that_ray_s_controller_does() -> None:
    from ray.train.v2._internal.execution.controller import controller

    assert abs(controller.time_monotonic() - time.monotonic()) < 60
