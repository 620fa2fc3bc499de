"""`training.steps`: as long as it says, evaluated in between, and otherwise the training that epochs would be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.midway import begin, leave_and_go_on, train_to_end, uninterrupted

from samtune.config.space import SearchSpace
from samtune.config.trial import TrialSpec
from samtune.errors import SpaceError
from samtune.experiments.candidates import _as_long_as, _plain
from samtune.train.optimizers import learning_rate

SMALL = ["data.num_train=300", "training.batch_size=32", "search={}", "initial=[]", "resources.num_workers=1"]
STEPS_OF_A_PASS = 8  # 270 training examples


def spec_of(*overrides: str) -> TrialSpec:
    return SearchSpace.from_yaml("digits.yaml", [*SMALL, *overrides]).trial({})


def without(history: list[dict[str, float]], *keys: str) -> list[dict[str, float]]:
    return [{key: value for key, value in record.items() if key not in keys} for record in history]


def test_steps_of_whole_passes_are_epochs() -> None:
    # of a method whose gate and schedule look at the share of the training that is done
    method = "method={name: sam, rho: 0.1, start: 0.3}"
    history, tensors = train_to_end(begin(spec := spec_of("training.epochs=3", method)), spec)
    spec = spec_of(f"training.steps={3 * STEPS_OF_A_PASS}", f"training.evaluate_every={STEPS_OF_A_PASS}", method)
    by_steps, same_tensors = train_to_end(begin(spec), spec)
    assert [record["num_steps"] for record in by_steps] == [8, 16, 24]
    assert without(by_steps, "num_steps") == history
    assert all(torch.equal(a, b) for a, b in zip(tensors, same_tensors, strict=True))


def test_the_weights_do_not_depend_on_how_often_they_are_evaluated() -> None:
    # 20 steps are two and a half passes; every 6 steps, the last evaluation comes after 2
    often, rarely = (spec_of("training.steps=20", f"training.evaluate_every={every}") for every in (6, 20))
    run, other = begin(often), begin(rarely)
    history, _ = train_to_end(run, often)
    (once,), _ = train_to_end(other, rarely)
    assert [record["num_steps"] for record in history] == [6, 12, 18, 20]
    assert [record["epoch"] for record in history] == [1, 2, 3, 4]
    assert history[-1]["val_loss"] == once["val_loss"]
    for name, tensor in run.model.state_dict().items():
        assert torch.equal(tensor, other.model.state_dict()[name])
    # two passes a step of SAM; a pass is over the examples of 6 steps
    assert history[-1]["num_passes"] == often.num_passes == pytest.approx(2 * 20 / 6)


def test_a_training_that_was_left_goes_on_across_the_end_of_a_pass(tmp_path: Path) -> None:
    # left after 6 + 3 steps, in the second pass over the data
    spec = spec_of("training.steps=20", "training.evaluate_every=6")
    history, tensors = leave_and_go_on(0, 1, spec, str(tmp_path), after=3)
    whole, all_tensors = uninterrupted(0, 1, spec)
    assert history == whole
    assert all(torch.equal(a, b) for a, b in zip(tensors, all_tensors, strict=True))


def test_the_learning_rate_ends_at_the_last_step() -> None:
    training = spec_of("training.steps=10", "training.evaluate_every=4", "training.schedule=linear").training
    rates = [learning_rate(training, k, num_epochs=3, steps_per_epoch=4, total_steps=10) for k in (0, 5, 10)]
    assert rates == pytest.approx([training.lr, training.lr / 2, 0])


@pytest.mark.parametrize(("steps", "every", "evaluations"), [(1000, 50, 20), (7, 1, 7), (30, 2, 15), (1, 1, 1)])
def test_an_evaluation_comes_after_a_twentieth(steps: int, every: int, evaluations: int) -> None:
    spec = spec_of(f"training.steps={steps}")
    assert (spec.training.evaluation_interval, spec.num_epochs) == (every, evaluations)
    params = spec.params()
    assert (params["training.steps"], params["training.evaluate_every"], params["training.epochs"]) == (
        steps,
        every,
        evaluations,
    )


@pytest.mark.parametrize(
    ("training", "problem"),
    [
        ({"steps": 10, "epochs": 3}, "give epochs or steps, not both (epochs is 3, steps 10)"),
        ({"steps": 10, "passes": 3}, "give passes or steps, not both (passes is 3, steps 10)"),
        ({"steps": 10, "evaluate_every": 11}, "must not exceed steps (evaluate_every is 11, steps is 10)"),
        ({"evaluate_every": 5}, "must not exceed steps (evaluate_every is 5, none is given)"),
        ({"steps": 10, "evaluate_every": 5, "warmup_epochs": 3}, "must not exceed epochs (warmup_epochs is 3.0, epoch"),
    ],
)
def test_lengths_that_do_not_fit_are_one_line(training: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpaceError) as caught:
        SearchSpace.from_dict({"name": "x", "data": "digits", "model": "mlp", "method": "sam", "training": training})
    assert problem in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("key", ["epochs=3", "passes=12"])
def test_the_length_that_is_set_takes_the_place_of_the_files(key: str) -> None:
    raw = {"name": "x", "data": "digits", "model": "mlp", "method": "sam"}
    raw["training"] = {"steps": 100, "evaluate_every": 10}
    training = SearchSpace.from_dict(raw, [f"training.{key}"]).trial({}).training
    assert (training.steps, training.evaluate_every) == (None, None)
    again = SearchSpace.from_dict(raw, [f"training.{key}", "training.steps=40"]).trial({}).training
    assert (again.epochs, again.passes, again.steps) == (None, None, 40)
    longer = SearchSpace.from_dict(raw, ["training.steps=200"]).trial({}).training
    assert (longer.steps, longer.evaluate_every) == (200, 10)


def test_baselines_train_for_as_many_steps_and_for_as_many_passes() -> None:
    best = spec_of("training.steps=100", "training.evaluate_every=30", "method={name: sam, rho: 0.1}")
    found = _as_long_as(best, _plain(best, "sgd"), "sgd")
    assert {label: spec.training.steps for label, spec in found.items()} == {
        "sgd (100 steps)": 100,
        "sgd (200 steps)": 200,
    }
    assert found["sgd (200 steps)"].num_passes == best.num_passes
