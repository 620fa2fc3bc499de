"""Trials whose workers have parts of the network (`training.parallel: fsdp`), on gloo ranks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.hosted import interrupt_and_resume
from helpers.hosted import make_spec as make_function_spec
from helpers.hosted import train as train_function
from helpers.midway import begin, leave_and_go_on, make_spec, train_to_end, uninterrupted
from helpers.ranks import run_ranks
from helpers.records import assert_records_agree
from safetensors.torch import load_file
from torch import nn

from samtune.config.space import SearchSpace
from samtune.config.trial import TrialSpec
from samtune.errors import UsageError
from samtune.models import load_model
from samtune.train.sharding import blocks, in_step
from samtune.train.trial_state import TrainFunctionError

NET = "model={name: wide_resnet, depth: 10, width: 1, dropout: 0.3}"
SAM = "method={name: sam, rho: 0.1, m: global}"
# Of 11 validation examples the ranks have 5 and 6: one batch and two.
OPTIONS = (NET, SAM, "training.ema=0.9", "training.clip_norm=1", "training.lr=0.05")
OPTIONS += ("training.evaluation_batch=5", "training.epochs=2", "data.num_train=110")


def sharded(*overrides: str) -> TrialSpec:
    return make_spec(*OPTIONS, "training.parallel=fsdp", *overrides)


def agree(found: Any, expected: Any, *, tolerance: float) -> None:
    """Histories and tensors."""
    assert_records_agree(found[0], expected[0], tolerance=tolerance)
    for tensor, wanted in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(tensor, wanted, rtol=tolerance, atol=tolerance)


def test_a_trial_is_that_of_whole_networks_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    in_the_same_order = "training.channels_last=false"  # sums in another order differ by more after two epochs
    whole = run_ranks(2, uninterrupted, make_spec(*OPTIONS, in_the_same_order))
    parts = run_ranks(2, uninterrupted, sharded())
    left = run_ranks(2, leave_and_go_on, sharded(), str(tmp_path), after=1)
    for rank in (0, 1):
        agree(parts[rank], whole[rank], tolerance=1e-3)  # float32
        agree(left[rank], parts[rank], tolerance=0)


# -- weights, and other numbers of workers -----------------------------------------------------------------------------

PLAIN = (SAM, "model={name: mlp}", "training.epochs=2", "data.num_train=96")


def train_until(rank: int, num_ranks: int, spec: TrialSpec, folder: str, until: int | None = None) -> Any:
    found = train_function(rank, num_ranks, spec, folder, until)
    return [{k: v for k, v in record.items() if k != "perturbation_cosine"} for record in found[0]]


def test_a_checkpoint_goes_on_with_any_number_of_workers_and_the_kept_weights_are_whole(tmp_path: Path) -> None:
    """Without BatchNorm, which goes by a worker's examples."""
    spec = make_spec(*PLAIN, "training.parallel=fsdp").model_copy(update={"final": True})
    alone = train_until(0, 1, spec, str(tmp_path / "alone"))
    expected = load_file(tmp_path / "alone" / "weights.safetensors")
    for ranks, more in [((1, 2), "fsdp"), ((2, 1), "ddp")]:
        folder = tmp_path / f"{ranks}-{more}"
        run_ranks(ranks[0], train_until, spec, str(folder), 1)
        again = spec.model_copy(update={"training": spec.training.model_copy(update={"parallel": more})})
        found = run_ranks(ranks[1], train_until, again, str(folder))[0]
        assert_records_agree(found, alone, tolerance=1e-3)
        weights = load_file(folder / "weights.safetensors")
        torch.testing.assert_close(weights, expected, rtol=1e-3, atol=1e-4)
        assert load_model(folder / "weights.safetensors")(torch.rand(2, 1, 8, 8)).shape == (2, 10)


def bootstrapped(rank: int, num_ranks: int) -> bool:
    spec = make_spec(
        SAM,
        "training.bootstrap=1",
        "training.epochs=1",
        "data.num_train=75",
        "training.parallel=fsdp",
        "training.evaluation_batch=7",
    )
    run = begin(spec, rank, num_ranks)
    history, _ = train_to_end(run, spec)
    return len(history) == 2 and all(math.isfinite(record["val_loss"]) for record in history)


def test_labels_are_predicted_by_parts_too() -> None:
    assert run_ranks(2, bootstrapped) == [True, True]


def gone_through(rank: int, num_ranks: int) -> list[Any]:
    """Rank 0 has no batch, rank 1 two."""
    cpu = torch.device("cpu")
    found: list[Any] = [list(in_step(["a", "b"][: 2 * rank], cpu, spare="spare"))]
    try:
        list(in_step(["a"] * rank, cpu))
    except UsageError as error:
        found.append(str(error))
    return found


def test_all_ranks_go_through_equally_many_batches_of_an_evaluation() -> None:
    first, second = run_ranks(2, gone_through)
    assert first[0] == [("spare", False), ("spare", False)]
    assert second[0] == [("a", True), ("b", True)]
    assert first[1] == second[1] == "training.parallel: fsdp needs an example for each worker in every evaluation"


# -- training functions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", ["by_step", "shards_by_itself"])
def test_a_training_function_is_that_of_whole_networks_and_resumes_bit_for_bit(tmp_path: Path, function: str) -> None:
    method = {"name": "sam", "rho": 0.1, "m": "global"}
    training = {"epochs": 2, "batch_size": 20, "lr": 0.1}
    spec = make_function_spec(function, method=method, training={**training, "parallel": "fsdp"})
    if function == "shards_by_itself":  # by the argument, not by the space
        spec = make_function_spec(function, method=method, training=training)
    whole = make_function_spec(
        "by_closure" if function == "shards_by_itself" else function, method=method, training=training
    )
    expected = run_ranks(2, train_function, whole, str(tmp_path / "whole"))
    found = run_ranks(2, train_function, spec, str(tmp_path / "parts"))
    resumed = run_ranks(2, interrupt_and_resume, spec, str(tmp_path / "resumed"), after=1)
    for rank in (0, 1):
        agree(found[rank], expected[rank], tolerance=1e-3)  # float32
        agree(resumed[rank], found[rank], tolerance=0)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["method={name: sam}"], "method.m: must be global with training.parallel fsdp, whose gradients are the mean"),
        (["method={name: gsam, m: 8}"], r"method.m: must be global .*\(got 8\)"),
        (["method={name: sam, m: global, p: 1}"], "method.p: must be above 1 with training.parallel fsdp"),
        (["method={name: sam, m: global, second_order: true}"], "method.second_order: must be off with"),
        (["method={name: universal, m: global, directions: 'a.b:c'}"], "method.directions: cannot be your own with"),
        (["method={name: 'helpers.own_rules:HalfWay', m: global}"], "method.name: cannot be a rule of your own with"),
        (["training.optimizer=adafactor"], "training.optimizer: cannot be adafactor with training.parallel fsdp"),
        (["training.diagnostics={m_sharpness: 1}"], "training.diagnostics: needs whole gradients"),
        (["training.compile=true"], "training.compile: must be off with training.parallel fsdp"),
        (["training.channels_last=true"], "training.channels_last: must be off with training.parallel fsdp"),
    ],
)
def test_a_space_with_what_needs_whole_networks_is_refused_in_one_line(overrides: list[str], line: str) -> None:
    space = ["search={}", "initial=[]", SAM, *overrides, "training.parallel=fsdp"]
    with pytest.raises(UsageError, match=line):
        SearchSpace.from_yaml("digits.yaml", space).trial({})


def refused(rank: int, num_ranks: int, folder: str, function: str, m: str) -> str:
    training = {"epochs": 1, "batch_size": 20, "parallel": "fsdp" if m == "global" else "ddp"}
    spec = make_function_spec(function, method={"name": "sam", "rho": 0.1, "m": m}, training=training)
    torch.distributed.barrier()  # what is refused at once must not leave before the other has come
    try:
        train_function(rank, num_ranks, spec, folder)
    except (UsageError, TrainFunctionError) as error:
        return str(error)
    return "accepted"


def test_so_is_a_training_function_that_asks_for_it(tmp_path: Path) -> None:
    line = run_ranks(2, refused, str(tmp_path), "shards_by_itself", "worker")[0]
    assert line.startswith("method.m: must be global with")


def test_a_part_of_the_weights_among_a_function_s_own_values_is_refused_in_one_line(tmp_path: Path) -> None:
    for line in run_ranks(2, refused, str(tmp_path), "keeps_a_part", "global"):
        assert "trial.state.weight cannot be saved: it is of a part of the weights (DTensor)" in line


def test_the_blocks_are_children_with_weights_those_of_a_sequential_and_not_what_is_shared() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Sequential(nn.Linear(2, 3), nn.ModuleList([nn.Linear(3, 2)])))
    assert blocks(net) == [net[0], net[2][0], net[2][1][0]]
    tied = nn.ModuleDict({"in": nn.Linear(2, 2), "middle": nn.Bilinear(2, 2, 2), "out": nn.Linear(2, 2)})
    tied["out"].weight = tied["in"].weight
    assert blocks(tied) == [tied["middle"]]
