"""A training function of the user's: what the object that it gets does, on one worker and on two."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.hosted import LocalHost, interrupt_and_resume, make_spec, train
from helpers.ranks import run_ranks
from helpers.records import assert_records_agree
from safetensors import safe_open

from samtune.config.trial import TrialSpec
from samtune.errors import UsageError
from samtune.models.saved import load_model
from samtune.train.arithmetic import Capabilities
from samtune.train.loops import train_trial
from samtune.train.session import Place
from samtune.train.trial import DivergedError
from samtune.train.trial_loader import TrialLoader
from samtune.train.trial_state import TrainFunctionError

CPU = torch.device("cpu")
METHODS: dict[str, Any] = {
    "by_step": {"name": "sam", "rho": 0.1, "m": 5},
    "by_closure": {"name": "asam", "rho": 0.5},
}
METRICS = ("train_loss", "val_loss", "val_accuracy", "lr", "num_passes")


def same(one: Any, other: Any) -> bool:
    (history, tensors), (other_history, other_tensors) = one, other
    return history == other_history and all(map(torch.equal, tensors, other_tensors)) and len(tensors) > 0


@pytest.mark.parametrize("function", METHODS)
def test_a_resumed_trial_is_the_uninterrupted_one_bit_for_bit(tmp_path: Path, function: str) -> None:
    spec = make_spec(function, method=METHODS[function])
    whole = train(0, 1, spec, str(tmp_path / "whole"))
    assert [record["epoch"] for record in whole[0]] == [1, 2, 3]
    assert all(math.isfinite(record[name]) for record in whole[0] for name in METRICS)
    assert same(interrupt_and_resume(0, 1, spec, str(tmp_path / "resumed"), after=2), whole)


@pytest.mark.parametrize("function", METHODS)
def test_a_trial_that_resumes_elsewhere_goes_on_in_the_precision_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    spec = make_spec(function, method=METHODS[function])
    on_a_cpu = train(0, 1, spec, str(tmp_path / "cpu"))
    with monkeypatch.context() as card:
        card.setattr(Capabilities, "of", lambda device: Capabilities("cuda", (8, 0)))
        whole = train(0, 1, spec, str(tmp_path / "whole"))
        train(0, 1, spec, str(tmp_path / "moved"), until=1)
    assert same(train(0, 1, spec, str(tmp_path / "moved")), whole)  # bf16, though a CPU would have chosen fp32
    assert not same(on_a_cpu, whole)


@pytest.mark.parametrize(
    ("method", "training"),
    [
        ({"name": "ssam_f", "rho": 0.1, "num_examples": 16}, {}),
        ({"name": "looksam", "k": 3}, {"clip_norm": 0.5}),
        ({"name": "gsam", "m": 10, "probability": 0.5}, {"optimizer": "adamw", "precision": "bf16", "lr": 0.01}),
    ],
    ids=str,
)
def test_other_methods_resume_bit_for_bit_too(tmp_path: Path, method: dict[str, Any], training: dict[str, Any]) -> None:
    spec = make_spec("by_step", method=method, training={"epochs": 3, "batch_size": 20, **training})
    whole = train(0, 1, spec, str(tmp_path / "whole"))
    assert same(interrupt_and_resume(0, 1, spec, str(tmp_path / "resumed"), after=1), whole)


@pytest.mark.parametrize("function", METHODS)
def test_two_ranks_report_the_same_and_resume_bit_for_bit(tmp_path: Path, function: str) -> None:
    spec = make_spec(function, method=METHODS[function])
    whole = run_ranks(2, train, spec, str(tmp_path / "whole"))
    resumed = run_ranks(2, interrupt_and_resume, spec, str(tmp_path / "resumed"), after=1)
    assert whole[0][0] == whole[1][0]  # every rank knows the same metrics
    assert same(resumed[0], whole[0])
    assert same(resumed[1], whole[1])


def test_passes_and_the_schedule_are_those_of_the_configuration(tmp_path: Path) -> None:
    for function in METHODS:
        spec = make_spec(function)
        history, _ = train(0, 1, spec, str(tmp_path / function))
        assert [record["num_passes"] for record in history] == [2, 4, 6]  # two per epoch of SAM
        # 4 steps an epoch of 12: the cosine at the last step of each, 0.05 (1 + cos(pi t / 12)) at t = 3, 7, 11.
        expected = [0.05 * (1 + math.cos(math.pi * t / 12)) for t in (3, 7, 11)]
        assert [record["lr"] for record in history] == pytest.approx(expected)
    plain, _ = train(0, 1, make_spec("by_closure", method="sgd"), str(tmp_path / "plain"))
    assert [record["num_passes"] for record in plain] == [1, 2, 3]


@pytest.mark.parametrize(
    ("method", "ranks"),
    [
        ({"name": "sam", "rho": 0.2}, 1),
        ({"name": "sam", "rho": 0.2, "every": 3, "start": 0.2, "stop": 0.9, "perturb": "no_norm_bias"}, 1),
        ({"name": "sam", "rho": 0.2, "rho_schedule": "cosine", "probability": 0.5}, 1),
        ({"name": "asam", "rho": 0.5, "rho_schedule": "proportional_to_lr", "rho_final": 0.1}, 1),
        ({"name": "sgd"}, 1),
        ({"name": "sam", "rho": 0.2}, 2),
        ({"name": "sam", "rho": 0.2, "m": "global"}, 2),
    ],
    ids=str,
)
def test_an_optimizer_takes_the_steps_of_train_step(tmp_path: Path, method: dict[str, Any], ranks: int) -> None:
    """Two independent implementations: under two workers each has its own perturbation, and gradients are averaged."""
    found = []
    for function in ("plain_step", "plain_closure"):
        spec = make_spec(function, method=method)
        folder = str(tmp_path / function)
        found.append(train(0, 1, spec, folder) if ranks == 1 else run_ranks(ranks, train, spec, folder)[0])
    one, other = ([{name: record[name] for name in METRICS if name in record} for record in run[0]] for run in found)
    assert_records_agree(one, other, tolerance=1e-4)


@pytest.mark.parametrize(("width", "passes"), [(8, [1, 2, 3]), (3, [3, 6, 9])])
def test_an_epoch_of_an_optimizer_of_ones_own_is_a_pass_or_what_is_reported(
    tmp_path: Path, width: int, passes: list[int]
) -> None:
    history, _ = train(0, 1, make_spec("counts_its_passes", config={"width": width}), str(tmp_path))
    assert [record["num_passes"] for record in history] == passes


def test_a_scheduler_ends_the_loop_at_a_report(tmp_path: Path) -> None:
    history, _ = train(0, 1, make_spec("by_step"), str(tmp_path), until=2)
    assert [record["seen"] for record in history] == [1, 2]


def test_every_epoch_has_an_order_of_its_own_and_a_seed_the_same_ones(tmp_path: Path) -> None:
    history, _ = train(0, 1, make_spec("reports_the_order"), str(tmp_path / "first"))
    assert len({record["val_accuracy"] for record in history}) == 3
    assert train(0, 1, make_spec("reports_the_order"), str(tmp_path / "again"))[0] == history
    assert train(0, 1, make_spec("reports_the_order", seed=1), str(tmp_path / "other"))[0] != history


@pytest.mark.parametrize("function", METHODS)
def test_the_state_of_another_trial_is_gone_on_from_with_ones_own_settings(tmp_path: Path, function: str) -> None:
    """As population-based training does."""

    def spec(lr: float, rho: float) -> TrialSpec:
        training = {"epochs": 3, "batch_size": 20, "lr": lr, "schedule": "constant"}
        return make_spec(function, method={**METHODS[function], "rho": rho}, training=training)

    train(0, 1, spec(0.1, 0.1), str(tmp_path / "taken"), until=2)
    shutil.copytree(tmp_path / "taken", tmp_path / "other")
    taken, _ = train(0, 1, spec(0.02, 0.3), str(tmp_path / "taken"))
    assert [record["lr"] for record in taken] == [0.1, 0.1, 0.02]
    other, _ = train(0, 1, spec(0.02, 0.1), str(tmp_path / "other"))
    assert taken[:2] == other[:2]
    assert taken[2]["val_loss"] != other[2]["val_loss"]  # by rho


def test_the_values_of_ones_own_are_kept(tmp_path: Path) -> None:
    history, _ = interrupt_and_resume(0, 1, make_spec("by_step"), str(tmp_path), after=1)
    assert history[-1]["best"] == max(record["val_accuracy"] for record in history)


def test_an_evaluation_leaves_the_modes_of_all_modules(tmp_path: Path) -> None:
    history, _ = train(0, 1, make_spec("evaluates_midway"), str(tmp_path))
    assert [record["is_as_before"] for record in history] == [1.0] * 3


def test_batches_are_the_same_examples_for_any_number_of_workers() -> None:
    dataset = torch.utils.data.TensorDataset(torch.arange(26))

    def batches(num_workers: int, *, train: bool) -> list[list[list[int]]]:
        places = [Place(rank, num_workers, CPU) for rank in range(num_workers)]
        loaders = [TrialLoader(dataset, 8, train=train, seed=1, place=place, options={}) for place in places]
        assert all(len(list(loader)) == len(loader) for loader in loaders)
        return [[batch[0].tolist() for batch in loader] for loader in loaders]

    ((*alone,),) = batches(1, train=True)
    first, second = batches(2, train=True)
    assert [one + other for one, other in zip(first, second, strict=True)] == alone
    assert [len(batch) for batch in alone] == [8, 8, 8]
    assert len({example for batch in alone for example in batch}) == 24
    seen = [example for own in batches(3, train=False) for batch in own for example in batch]
    assert sorted(seen) == list(range(26))


def test_epochs_have_orders_of_their_own() -> None:
    loader = TrialLoader(range(64), 64, train=True, seed=1, place=Place(0, 1, CPU), options={})  # type: ignore[arg-type]
    first = [batch.tolist() for batch in loader]
    loader.epoch = 1
    assert sorted(map(sorted, first)) == sorted(sorted(batch.tolist()) for batch in loader)
    assert first != [batch.tolist() for batch in loader]


def test_a_confirmation_records_the_test_set_and_keeps_the_weights(tmp_path: Path) -> None:
    search = make_spec("by_step")
    spec = search.model_copy(
        update={"final": True, "data": search.data.model_copy(update={"validation_fraction": 0.0})}
    )
    host = LocalHost(str(tmp_path), metrics=["test_accuracy"])
    train_trial(spec, Place(0, 1, CPU), host)
    assert {"test_loss", "test_accuracy"} <= host.history[-1].keys()
    assert not any(name.startswith("val_") for name in host.history[-1])
    with safe_open(host.weights, framework="pt") as file:
        assert {"0.weight", "1.running_mean", "4.bias"} <= set(file.keys())
        assert "helpers.train_functions:by_step" in file.metadata()["spec"]
    with pytest.raises(UsageError, match=r"its network is made by helpers.train_functions:by_step, a training"):
        load_model(host.weights)


NAME = "helpers.train_functions:"


@pytest.mark.parametrize(
    ("function", "line"),
    [
        ("never_reports", "epoch 1 ended without trial.report(val_accuracy=…)"),
        ("reports_another", "epoch 1 ended without val_accuracy, which is the objective (reported: val_loss, f1)"),
        ("reads_another_key", "trial.config has no 'depth': config has width"),
        ("returns_early", "returned after 1 of 3 epochs: it must go through all of trial.epochs()"),
        ("never_begins", "returned without a loop over trial.epochs()"),
        ("trains_twice", "calls trial.epochs twice"),
        ("reports_too_early", "calls trial.report outside of `for epoch in trial.epochs()`"),
        ("reports_text", "reports val_accuracy, which must be a number (got str)"),
        ("reports_the_epoch", "reports epoch, which samtune measures: choose another name"),
        ("keeps_an_object", "trial.state.parts.0 cannot be saved: it must be made of tensors, numbers and text"),
        ("keeps_a_subclass", "trial.state.pair cannot be saved: it must be made of tensors, numbers and text"),
        ("makes_its_network_late", "model must be made before trial.epochs() begins: a resume would not know it"),
        ("saves_a_number", "best must have state_dict and load_state_dict (got float)"),
        ("evaluates_nothing", "trial.evaluate: the loader has no examples"),
        ("iterates", "trial.loader takes a data set with a length (got list_iterator)"),
        ("takes_a_large_batch", "trial.loader: a batch must be a multiple of the 1 workers, and at most the 80"),
        ("takes_no_length", "the loader of a step must have a length, the steps of an epoch, or be that number"),
    ],
)
def test_a_function_that_leaves_something_out_is_told_in_one_line(tmp_path: Path, function: str, line: str) -> None:
    with pytest.raises((TrainFunctionError, UsageError)) as caught:
        train(0, 1, make_spec(function), str(tmp_path))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("sections", "line"),
    [
        ({"method": "gsam"}, "method.name: trial.optimizer takes sam, asam, sgd or adamw (got gsam); trial.train_step"),
        ({"method": {"name": "sam", "m": 5}}, "method.m: trial.optimizer takes worker, global or a worker's 20"),
        (
            {"method": {"name": "sam", "ascent_steps": 2}},
            "method.ascent_steps: trial.optimizer does not take it (got 2)",
        ),
        ({"training": {"batch_size": 20, "clip_norm": 1.0}}, "training.clip_norm: trial.optimizer does not take it"),
    ],
)
def test_what_an_optimizer_alone_cannot_do(tmp_path: Path, sections: dict[str, Any], line: str) -> None:
    with pytest.raises(UsageError) as caught:
        train(0, 1, make_spec("optimizes", **sections), str(tmp_path))
    assert line in str(caught.value)


def test_an_objective_that_is_not_finite_is_a_divergence(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="diverged: val_accuracy is nan in epoch 2"):
        train(0, 1, make_spec("diverges"), str(tmp_path))


def test_an_error_of_the_functions_own_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the user's own"):
        train(0, 1, make_spec("raises"), str(tmp_path))
