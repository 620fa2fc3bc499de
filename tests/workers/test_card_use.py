"""What is looked at of a card: a mean over an epoch, the peak of a trial, and nothing where it cannot be known."""

from __future__ import annotations

import threading

import pytest
import torch

from samtune.workers import card_use
from samtune.workers.card_use import CardUse


def test_a_cpu_has_no_such_metrics() -> None:
    with CardUse.of(torch.device("cpu")) as use:
        assert use.metrics() == {}


def test_the_mean_is_of_the_looks_since_the_last_call() -> None:
    percents = iter([10.0, 30.0, 80.0])
    use = CardUse(lambda: 3 * 2**30, lambda: next(percents))
    assert use.metrics() == {"gpu_memory": 3}
    use.look()
    use.look()
    assert use.metrics() == {"gpu_memory": 3, "gpu_utilization": 20}
    use.look()
    assert use.metrics() == {"gpu_memory": 3, "gpu_utilization": 80}


def test_it_looks_by_itself_until_the_trial_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card_use, "_SECONDS", 0.001)
    looked = threading.Semaphore(0)

    def utilization() -> float:
        looked.release()
        return 50.0

    with CardUse(lambda: 0, utilization) as use:
        assert looked.acquire(timeout=120)
        assert looked.acquire(timeout=120)  # the first look is noted
        assert use.metrics()["gpu_utilization"] == 50
    assert "samtune-card-use" not in [thread.name for thread in threading.enumerate()]


def test_a_card_that_cannot_be_asked_costs_the_figure_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card_use, "_SECONDS", 0.001)
    asked = threading.Event()

    def utilization() -> float:
        asked.set()
        raise ModuleNotFoundError("pynvml")

    with CardUse(lambda: 2**29, utilization) as use:
        assert asked.wait(120)
        assert use.metrics() == {"gpu_memory": 0.5}
