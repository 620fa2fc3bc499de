"""When the last trials of a search get more workers, and when they had better stay."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from helpers.midway import begin
from helpers.ray_internals import START_TIMEOUT

from samtune import Callback, SearchSpace, Trial, TrialState, Tuner
from samtune.experiments import widening
from samtune.experiments.widening import Widening
from samtune.raylib.cluster import Node, local_node
from samtune.study import EpochLog, Study

EIGHT = [Node(8, 0)]
LOSSES = ("train_loss", "val_loss", "gradient_norm")


@dataclass
class World:
    """Worker groups that do what they are told."""

    workers: dict[str, int]
    startup: float | None = 10.0
    refuses: bool = False
    asked: list[dict[str, int]] = field(default_factory=list)
    narrowed: list[int] = field(default_factory=list)
    room: list[dict[str, int]] = field(default_factory=list)

    def startup_seconds(self, started_at: float) -> float | None:
        return self.startup

    def workers_of_trials(self) -> Mapping[str, int]:
        return self.workers

    def widen(self, sizes: Mapping[str, int]) -> list[str]:
        self.asked.append(dict(sizes))
        return [] if self.refuses else list(sizes)

    def make_room(self, sizes: Mapping[str, int]) -> list[str]:
        self.room.append(dict(sizes))
        return [] if self.refuses else list(sizes)

    def narrow(self, size: int) -> list[int]:
        self.narrowed.append(size)
        return [3]


def trial(number: int, epochs: int, seconds: float, state: TrialState = TrialState.RUNNING) -> Trial:
    history = EpochLog([{"epoch": float(e + 1), "epoch_seconds": seconds} for e in range(epochs)])
    return Trial(number=number, id=f"t{number}", config={}, params={}, num_epochs=101, state=state, history=history)


def make(
    world: World, *trials: Trial, num_trials: int | None = None, over: bool = False, overrides: tuple[str, ...] = ()
) -> tuple[Widening, list[str]]:
    base = ["resources.num_workers=auto", "search={}", "initial=[]", "method.m=8", *overrides]
    space, said = SearchSpace.from_yaml("digits.yaml", base), list[str]()
    options: dict[str, Any] = {"plan": {}, "versions": {}}
    study = Study(
        name="s", objectives=(), num_trials=num_trials or len(trials), space_yaml="", storage_path="", tracking_uri="",
        experiment="", command="", **options,
    )  # fmt: skip
    study.trials = list(trials)
    make_spec: Callable[[Mapping[str, Any]], Any] = space.trial
    look = Widening(study, space.resources, 0, world, make_spec=make_spec, none_to_come=lambda: over, say=said.append)
    return look, said


DONE = trial(0, 101, 1.0, TrialState.COMPLETED)


def test_the_last_trials_share_all_places_and_each_is_asked_once() -> None:
    world = World({"t1": 1, "t2": 1})
    look, said = make(world, DONE, trial(1, 1, 1.0), trial(2, 1, 1.0))
    look.look(EIGHT)
    look.look(EIGHT)
    assert world.asked == [{"t1": 4, "t2": 4}]
    assert said[1] == "no trials are to come: after this epoch, trial 2 continues with 4 workers"


def test_what_was_refused_is_asked_again() -> None:
    world = World({"t1": 1}, refuses=True)
    look, said = make(world, DONE, trial(1, 1, 1.0))
    look.look(EIGHT)
    look.look(EIGHT)
    assert world.asked == [{"t1": 8}] * 2
    assert not said


@pytest.mark.parametrize(
    ("epochs", "startup", "moves"),
    [
        (1, 10.0, True),  # 99 s on one worker, 12 on eight
        (77, 10.0, True),  # 23 s: 20.1 saved, and two starts are 20
        (78, 10.0, False),
        (1, 50.0, False),
        (1, None, False),  # nothing is known of a start
        (0, 0.001, False),  # nor of an epoch
        (100, 0.0, False),  # in its last epoch
    ],
)
def test_a_trial_moves_only_where_it_saves_much_more_than_a_start(
    epochs: int, startup: float | None, moves: bool
) -> None:
    world = World({"t1": 1}, startup)
    make(world, DONE, trial(1, epochs, 1.0))[0].look(EIGHT)
    assert bool(world.asked) is moves


def test_of_two_trials_only_the_one_moves_that_has_much_left() -> None:
    world = World({"t1": 1, "t2": 1})
    make(world, DONE, trial(1, 1, 1.0), trial(2, 99, 1.0))[0].look(EIGHT)
    assert world.asked == [{"t1": 4}]


def test_while_others_may_come_or_wait_nothing_changes() -> None:
    running = trial(1, 1, 1.0)
    world = World({"t1": 1})
    make(world, DONE, running, num_trials=3)[0].look(EIGHT)
    make(world, DONE, running, trial(2, 1, 1.0, TrialState.WAITING))[0].look(EIGHT)
    make(world, DONE, running, trial(2, 1, 1.0, TrialState.INTERRUPTED))[0].look(EIGHT)
    assert not world.asked
    make(world, DONE, running, num_trials=3, over=True)[0].look(EIGHT)  # the source has no more, or the budget
    assert world.asked == [{"t1": 8}]


@pytest.mark.parametrize("overrides", [("method.m=worker",), ("method=sgd",)])
def test_a_trial_whose_result_would_change_stays(overrides: tuple[str, ...]) -> None:
    world = World({"t1": 1})
    make(world, DONE, trial(1, 1, 1.0), overrides=overrides)[0].look(EIGHT)
    assert not world.asked


def test_a_trial_on_parts_of_the_weights_keeps_its_workers() -> None:
    world = World({"t1": 4})
    overrides = ("model={name: mlp}", "method.m=global", "training.parallel=fsdp")
    look, _ = make(world, DONE, trial(1, 1, 1.0), trial(2, 1, 1.0), overrides=overrides)
    look.look(EIGHT)
    world.workers["t2"] = 4
    look.look([Node(16, 0)])
    assert not world.narrowed
    assert not world.asked


def test_a_trial_that_has_as_many_workers_stays() -> None:
    world = World({"t1": 8})
    make(world, DONE, trial(1, 1, 1.0))[0].look(EIGHT)
    assert not world.asked


def test_where_a_trial_has_lost_its_group_that_comes_up_with_what_there_is_room_for() -> None:
    world = World({"t1": 4})
    look, said = make(world, DONE, trial(1, 1, 1.0), trial(2, 1, 1.0))
    look.look([Node(4, 0)])
    assert (world.narrowed, world.asked) == ([2], [])
    assert said[0] == "group 3 lost its workers and restarts with 2 workers, which the nodes have room for"
    look.look([Node(1, 0)])
    assert world.narrowed == [2, 1]


def test_a_trial_without_places_gets_those_of_the_widest_which_may_have_them_again() -> None:
    """Two trials of four workers on two nodes, one of which is lost: both continue with two on the other."""
    world = World({"t1": 4})
    one, two = trial(1, 1, 1.0), trial(2, 50, 1.0)
    look, said = make(world, DONE, one, two)
    look.look([Node(4, 0)])
    assert world.room == [{"t1": 2}]
    assert said[-1] == "places were lost, and a trial waits: after this epoch, trial 1 continues with 2 workers"
    world.workers = {"t2": 2}  # t1 has left its workers, and its group restarts
    look.look([Node(4, 0)])
    world.workers = {"t1": 2, "t2": 2}
    look.look([Node(4, 0)])
    assert (len(world.room), world.asked) == (1, [])
    two.state, world.workers = TrialState.COMPLETED, {"t1": 2}
    look.look([Node(4, 0)])
    assert world.asked == [{"t1": 4}]
    world.workers = {"t1": 4}  # the other node is back, and t3 of it is lost again: what was asked can be asked anew
    two.state = TrialState.RUNNING
    look.look([Node(4, 0)])
    two.state, world.workers = TrialState.COMPLETED, {"t1": 2}
    look.look([Node(4, 0)])
    assert world.room == [{"t1": 2}] * 2
    assert world.asked == [{"t1": 4}] * 2


def test_only_as_many_trials_give_places_back_as_there_are_places_missing() -> None:
    world = World({"t1": 2, "t2": 3, "t3": 2})
    look, _ = make(world, DONE, *(trial(number, 1, 1.0) for number in (1, 2, 3, 4)))
    look.look([Node(7, 0)])  # shared evenly each has one; t4 has none, and t2 gives it one of two
    assert world.room == [{"t2": 1}]
    look.look([Node(9, 0)])  # two places are free, which is what t4 can have
    assert len(world.room) == 1


@pytest.mark.parametrize(
    ("epochs", "startup", "moves"),
    [(79, 10.0, True), (80, 10.0, False), (1, None, False), (0, 0.001, False), (100, 0.0, False)],
)
def test_a_trial_keeps_its_places_where_it_ends_before_two_starts_of_a_group(
    epochs: int, startup: float | None, moves: bool
) -> None:
    world = World({"t1": 4}, startup)  # 21 s are left after 79 epochs and the present one, 20 after 80
    make(world, DONE, trial(1, epochs, 1.0), trial(2, 1, 1.0))[0].look([Node(4, 0)])
    assert bool(world.room) is moves


def test_a_trial_whose_configuration_breaks_a_rule_changes_nothing() -> None:
    world, invalid = World({}), trial(1, 1, 1.0)
    invalid.config = {"method.rho": -1.0}
    make(world, DONE, invalid, overrides=("search={method.rho: {uniform: [0.01, 0.1]}}",))[0].look(EIGHT)
    assert not world.narrowed
    assert not world.asked


class Watch(Callback):
    """Ends the search once its last trial has trained some epochs on more workers."""

    tuner: Tuner

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.since = 0  # epochs since the workers were there

    def on_status(self, study: Study, message: str) -> None:
        self.lines.append(message)

    def on_epoch(self, study: Study, trial: Trial, metrics: dict[str, float]) -> None:
        if trial.num_epochs > 2:
            time.sleep(0.1)  # it asks after each epoch: few must be trained again to compare
            self.since += any("is ready (2 workers)" in line for line in self.lines)
        if self.since == 3:
            self.tuner.stop("seen enough")


@pytest.mark.cluster
@pytest.mark.slow
def test_the_last_trial_of_a_search_moves_to_the_other_place_too_and_its_metrics_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(widening, "GAIN", 0.0)
    monkeypatch.setenv(START_TIMEOUT.name, str(START_TIMEOUT.value))
    far = 5000  # epochs: it is still there when the others have ended, and until it has moved
    settings = [
        *("model={name: mlp}", "method.m=global", "data.num_train=300", "training.lr=0.002"),
        f"resources={{num_workers: auto, cpus_per_worker: {local_node().cpus / 2}, gpus_per_worker: 0}}",  # two places
        f"search={{training.epochs: {{choice: [2, {far}]}}}}",
        f"initial=[{{training.epochs: 2}}, {{training.epochs: 2}}, {{training.epochs: {far}}}]",
        f"scheduler={{name: asha, resource: epochs, grace_period: {far}}}",
    ]
    space, watch = SearchSpace.from_yaml("digits.yaml", settings), Watch()
    watch.tuner = Tuner(
        space, num_trials=3, max_concurrent=2, name="tail", storage_path=tmp_path, address="local", callbacks=[watch]
    )
    study = watch.tuner.fit().study
    *others, last = study.trials
    assert [trial.num_epochs for trial in others] == [2, 2]
    assert all(trial.state is TrialState.COMPLETED for trial in others)
    assert last.state is TrialState.INTERRUPTED  # by `Watch`, after epochs on two workers
    assert "no trials are to come: after this epoch, trial 2 continues with 2 workers" in watch.lines
    assert not [line for line in watch.lines if "lost" in line or "goes back" in line]
    run = begin(space.trial(last.config))
    for epoch, record in enumerate(last.history, start=1):
        run.train_epoch(epoch)
        expected = {name: run.history[-1][name] for name in ("epoch", "num_passes", *LOSSES)}
        # Rounding is amplified by a factor of up to 10 an epoch, and three or some more are trained on two workers.
        assert {name: record[name] for name in expected} == pytest.approx(expected, rel=1e-3), epoch
