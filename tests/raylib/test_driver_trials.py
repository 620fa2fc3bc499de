"""Trials in threads of the driver: what Tune's controller asks for is there, and each end is told once, in order."""

from __future__ import annotations

import ast
import inspect
import os
import textwrap
import threading
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray import tune
from ray.tune.execution.tune_controller import TuneController
from ray.tune.result import TRIAL_INFO

from samtune.raylib.driver_trials import DriverTrainable, DriverTrials, _Saving
from samtune.raylib.schedulers import Fifo

NOT_ASKED_FOR = {"_actor_task_events"}
"""Of trials that export models alone, which samtune's do not."""


def test_all_that_tune_s_controller_asks_for_is_there() -> None:
    """Every use of the actor manager in Ray's source, with the arguments of each call."""
    uses, trials = 0, DriverTrials()
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(TuneController)))):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Attribute(attr="_actor_manager"), attr=name)):
                arguments = [None for _ in node.args], {keyword.arg: None for keyword in node.keywords}
                inspect.signature(getattr(trials, name)).bind(*arguments[0], **arguments[1])
                uses += 1
            case ast.Attribute(value=ast.Attribute(attr="_actor_manager"), attr=name) if name not in NOT_ASKED_FOR:
                getattr(trials, name)
                uses += 1
    assert uses > 20


# -- one trainable -----------------------------------------------------------------------------------------------------

ANSWERS: SimpleQueue[Any] = SimpleQueue()


@ray.remote
class Obedient:
    """Answers what it is told to."""

    def __init__(self, fails: bool = False) -> None:
        if fails:
            raise ValueError("cannot be made")

    def step(self) -> Any:
        answer = ANSWERS.get(timeout=10)
        if isinstance(answer, BaseException):
            raise answer
        return answer


class Heard:
    """What the controller would hear of, in order."""

    def __init__(self, **options: Any) -> None:
        self.trials, self.heard = DriverTrials(), []
        self.actor = self.trials.add_actor(
            Obedient,
            options,
            None,
            on_start=lambda actor: self.heard.append("started"),
            on_stop=lambda actor: self.heard.append("stopped"),
            on_error=lambda actor, error: self.heard.append(f"lost: {error.cause}"),
        )

    def step(self) -> Any:
        return self.trials.schedule_actor_task(
            self.actor,
            "step",
            on_result=lambda actor, result: self.heard.append(result),
            on_error=lambda actor, error: self.heard.append(f"failed: {error.cause}"),
            _return_future=True,
        )

    def until_idle(self) -> list[str]:
        while self.trials.next(timeout=0.3):
            pass
        return self.heard


def test_calls_run_one_after_another_and_each_end_is_told() -> None:
    one = Heard()
    for answer in (1, ValueError("no"), 2):
        ANSWERS.put(answer)
        one.step()
    assert one.until_idle() == ["started", 1, "failed: no", 2]
    assert one.trials.remove_actor(one.actor)
    assert one.until_idle()[-1] == "stopped"
    assert one.trials.num_live_actors == 0
    one.trials.join(timeout=5)
    assert not any(thread.is_alive() for thread in one.trials._threads.values())


def test_a_trainable_that_cannot_be_made_is_lost_and_takes_no_call() -> None:
    one = Heard(fails=True)
    assert one.until_idle() == ["lost: cannot be made"]
    assert one.trials.is_actor_failed(one.actor)
    assert not one.trials.is_actor_started(one.actor)
    assert one.step() is None
    assert not one.trials.remove_actor(one.actor)


@pytest.mark.parametrize("kill", [False, True])
def test_nobody_hears_of_a_call_that_was_given_up(kill: bool) -> None:
    """Without `kill`, the end is told when the call is over."""
    one = Heard()
    assert one.until_idle() == ["started"]
    call = one.step()
    assert one.trials.remove_actor(one.actor, kill=kill)
    assert (one.until_idle() == ["started", "stopped"]) is kill
    ANSWERS.put("late")
    assert one.until_idle() == ["started", "stopped"]
    assert call.result(timeout=5) == "late"


def test_a_call_that_has_ended_is_not_heard_of_once_it_is_given_up() -> None:
    """It has ended, and another was made since, but nobody was told yet."""
    one = Heard()
    assert one.until_idle() == ["started"]
    ANSWERS.put("too late")
    one.step().result(timeout=5)
    ANSWERS.put("later still")
    one.step().result(timeout=5)
    one.trials.clear_actor_task_futures(one.actor)
    assert one.until_idle() == ["started"]
    one.trials.cleanup()


def test_whatever_a_call_raises_is_told() -> None:
    one = Heard()
    ANSWERS.put(SystemExit("the end"))
    one.step()
    assert one.until_idle() == ["started", "failed: the end"]
    one.trials.cleanup()


def test_a_scheduler_waits_for_what_is_being_saved() -> None:
    one = Heard()
    saving = _Saving(one.step())
    assert saving.resolve(block=False) is None
    threading.Timer(0.1, ANSWERS.put, ("saved",)).start()
    assert saving.resolve() == "saved"
    ANSWERS.put(ValueError("the disk is full"))
    assert _Saving(one.step()).resolve() is None
    one.trials.cleanup()


NOTES: list[str] = []


@ray.remote
class Noted:
    """Writes down when it is made, and what is done to it."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.name = config["name"]
        NOTES.append(f"{self.name} made")

    def stop(self) -> None:
        ANSWERS.get(timeout=10)
        NOTES.append(f"{self.name} stopped")


def test_a_trial_goes_on_when_its_trainable_of_before_has_ended() -> None:
    """Paused and resumed at once: the old one takes the trial back from the workers as its last act."""
    trials = DriverTrials()

    def add(name: str, trial: str) -> Any:
        info = SimpleNamespace(trial_id=trial)
        nothing = dict.fromkeys(("on_start", "on_stop", "on_error"), lambda *_: None)
        return trials.add_actor(Noted, {"config": {"name": name, TRIAL_INFO: info}}, None, **nothing)

    old = add("old", "one")
    trials.schedule_actor_task(old, "stop")
    trials.remove_actor(old)
    add("new", "one")
    add("other", "two")
    while len(NOTES) < 2:
        assert trials.next(timeout=10)
    assert sorted(NOTES) == ["old made", "other made"]
    ANSWERS.put("go")
    while trials.next(timeout=0.3):
        pass
    assert NOTES[2:] == ["old stopped", "new made"]
    trials.cleanup()
    trials.join(timeout=5)
    assert all(thread._trainable is None for thread in trials._threads.values())


# -- Tune itself -------------------------------------------------------------------------------------------------------


class Counting(DriverTrainable):
    """Raises where it is told to."""

    def setup(self, config: dict[str, Any]) -> None:
        self.fails, self.count = config["fails"], 0
        if self.fails == "setup":
            raise ValueError("no setup")

    def step(self) -> dict[str, Any]:
        self.count += 1
        if self.fails == "step":
            raise ValueError("no step")
        return {"score": self.count, "pid": os.getpid(), "done": self.count == 3}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        (Path(checkpoint_dir) / "count").write_text(str(self.count))

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        self.count = int((Path(checkpoint_dir) / "count").read_text())


@pytest.mark.cluster
@pytest.mark.usefixtures("local_ray")
def test_tune_runs_its_trials_in_this_process(tmp_path: Path) -> None:
    before, scheduler = Path.cwd(), Fifo()
    results = tune.Tuner(
        Counting,
        param_space={"fails": tune.grid_search(["never", "setup", "step", "not at all"])},
        tune_config=tune.TuneConfig(scheduler=scheduler),
        run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0),
    ).fit()
    scheduler.join(timeout=10)
    assert [result.metrics["score"] for result in results if not result.error] == [3, 3]
    assert {type(error.cause).__name__ + f": {error.cause}" for error in results.errors} == {
        "ValueError: no setup",
        "ValueError: no step",
    }
    assert {result.metrics["pid"] for result in results if not result.error} == {os.getpid()}
    assert Path.cwd() == before
    assert not [thread for thread in threading.enumerate() if thread.name == "trial"]
