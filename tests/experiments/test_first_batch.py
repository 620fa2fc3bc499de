"""One batch before any worker starts: what it finds, and what it leaves to the workers."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.bad_parts import divides, right
from torch import Tensor

from samtune import SearchSpace
from samtune.config.search import ResourcesConfig
from samtune.config.trial import TrialSpec
from samtune.data import check_dataset
from samtune.errors import DatasetError, UsageError
from samtune.experiments import first_batch
from samtune.experiments.first_batch import FirstBatch, FirstBatchFailedError, with_own_parts
from samtune.experiments.plan import search_variants
from samtune.train.first_batch import FirstBatchError, try_first_batch

BAD = "helpers.bad_parts:"
FILE = re.escape("helpers/bad_parts.py")


def variants(**sections: Any) -> list[TrialSpec]:
    """Of digits with a network of the user's that is right, unless the sections say otherwise."""
    base = {"name": "x", "data": "digits", "model": f"{BAD}right", "method": "sam"}
    space = SearchSpace.from_dict({**base, **sections})
    return list(search_variants(space))


def training(**keys: Any) -> dict[str, Any]:
    return {"training": {"epochs": 1, "lr": 0.1, "batch_size": 16, **keys}}


@pytest.mark.parametrize(
    ("sections", "line"),
    [
        ({"model": f"{BAD}wrong_width"}, rf"the network: {FILE}:\d+ in wrong_width: RuntimeError: mat1 and mat2 .*64"),
        ({"model": f"{BAD}WrongForward"}, rf"the network: {FILE}:\d+ in forward: RuntimeError: mat1 and mat2 shapes"),
        (
            {"model": f"{BAD}GivesADict"},
            r"the loss: .*cross_entropy: the model must return a tensor, .* \(it returns a dict\)",
        ),
        ({"model": f"{BAD}made"}, r".* made must be a function or class .* \(got a Sequential, made already\)"),
        (training(loss=f"{BAD}divides"), rf"the loss: {FILE}:\d+ in divides: ZeroDivisionError: division by zero"),
        (training(loss=f"{BAD}vector_loss"), r"the loss: .* in vector_loss: .* \(it returned a tensor \(16,\)\)"),
        (training(loss=f"{BAD}detached_loss"), "the loss: .* in detached_loss: .* has no gradient"),
        (training(metrics=[f"{BAD}vector_metric"]), r"the metric vector_metric: .* \(it returned a tensor \(16,\)\)"),
        (training(metrics=[f"{BAD}number_metric"]), r"the metric number_metric: .* \(it returned float\)"),
        (
            {"data": {"name": f"{BAD}mixed", "validation_fraction": 0.2}, "model": "mlp", **training(batch_size=16)},
            rf"the data: {FILE}:\d+ in mixed: ValueError: examples must be .*, all of one structure",
        ),
    ],
)
def test_a_mistake_is_a_line_with_its_place(sections: dict[str, Any], line: str) -> None:
    with pytest.raises(FirstBatchError, match=line.replace(" made must", f" {BAD}made must")) as raised:
        try_first_batch(variants(**sections)[0], 1, torch.device("cpu"))
    assert raised.value.certain
    assert raised.value.traceback.startswith("Traceback")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("keys", "workers"),
    [
        ({"metrics": ["top5_accuracy"], "accumulate": 2}, 4),
        ({"precision": "fp16", "ema": 0.9}, 1),
    ],
)
@pytest.mark.parametrize("method", ["sgd", {"name": "sam", "m": 8}, "looksam"])
def test_what_is_right_goes_through(keys: dict[str, Any], workers: int, method: Any) -> None:
    """The share of one of four workers is smaller than m; this machine need not have what fp16 needs."""
    try_first_batch(variants(method=method, **training(**keys))[0], workers, torch.device("cpu"))


def test_what_the_workers_may_have_is_left_to_them() -> None:
    with pytest.raises(FirstBatchError, match="Torch not compiled with CUDA enabled") as raised:
        try_first_batch(variants(**training(loss=f"{BAD}needs_a_card"))[0], 1, torch.device("cpu"))
    assert not raised.value.certain


def test_examples_that_are_no_tensors_are_found_where_the_data_are() -> None:
    with pytest.raises(DatasetError, match=r"train: a target must be a tensor, an array or numbers, .* \(got str: "):
        check_dataset(variants(data=f"{BAD}named", model="mlp")[0].data)


def test_one_trial_of_each_combination_of_own_parts_is_tried() -> None:
    assert with_own_parts(variants(model="mlp")) == []
    own = SearchSpace.from_dict({"name": "x", "method": "sam", "train": f"{BAD}right"})
    assert with_own_parts(list(search_variants(own))) == []
    methods = {"choice": [{"name": "sam", "rho": 0.05}, {"name": "sam", "m": 8}, {"name": "sgd"}]}
    assert [spec.method.name for spec in with_own_parts(variants(method=methods))] == ["sam", "sgd"]


# -- the process -----------------------------------------------------------------------------------------


def never() -> bool:
    return False


def test_functions_that_were_given_go_to_the_process_and_its_error_comes_back() -> None:
    where = f"{FILE}:{divides.__code__.co_firstlineno + 1} in divides"
    error = f"^one batch of a trial fails in the loss: {where}: ZeroDivisionError: division by zero .*--no-check"
    trials = variants(model={"name": right}, training={"epochs": 1, "lr": 0.1, "loss": own_loss(divides)})
    with (
        FirstBatch(trials, ResourcesConfig(), 300) as tried,
        pytest.raises(FirstBatchFailedError, match=error) as raised,
    ):
        tried.result(never)
    assert isinstance(raised.value, UsageError)
    assert "ZeroDivisionError" in raised.value.traceback


def own_loss(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """One that no import finds."""
    return lambda outputs, targets: loss(outputs, targets)


def test_a_process_that_takes_too_long_is_given_up_and_says_so() -> None:
    with FirstBatch(variants(), ResourcesConfig(), 0.1) as tried:
        (line,) = tried.result(never)
    assert line.startswith("note: the check of one batch was given up: it takes more than 0.1 s of a core")


def test_nobody_waits_for_a_process_that_nobody_wants(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    waits = tmp_path / "waits.py"
    waits.write_text("import time\ntime.sleep(600)\n")
    monkeypatch.setattr(first_batch, "_SCRIPT", waits)
    with FirstBatch(variants(), ResourcesConfig(), 300) as tried:
        assert tried.result(lambda: True) == []
    tried._thread.join(60)  # type: ignore[union-attr]
    assert not tried._thread.is_alive()  # type: ignore[union-attr]
