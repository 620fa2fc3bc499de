"""Trials whose training set can only be gone through: those of a loop written by hand, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.midway import leave_and_go_on, uninterrupted
from helpers.ranks import run_ranks
from helpers.streams import WithState, example, kept, linear_net
from torch.nn.functional import cross_entropy

from samtune.config.space import SearchSpace
from samtune.config.trial import TrialSpec
from samtune.data import dataset_info
from samtune.docs import read_topic
from samtune.errors import DatasetError, UsageError
from samtune.experiments.plan import plan_search
from samtune.raylib.cluster import Node
from samtune.terminal.plan import format_plan
from samtune.train.first_batch import try_first_batch
from samtune.train.trial import TrialRun

CPU = torch.device("cpu")
FINAL = ["data.validation_fraction=0", "objective={metric: test_loss, mode: min}"]
BATCH, STEPS, EVERY, RHO, LR, M = 8, 11, 4, 0.05, 0.3, 4


def space_of(*overrides: str, name: str = "helpers.streams:streams", **options: Any) -> SearchSpace:
    raw = {
        "name": "streams",
        "data": {"name": name, "num_classes": 3, "options": options},
        "model": {"name": "helpers.streams:linear_net"},
        "method": {"name": "sam", "rho": RHO, "m": M},
        "training": {
            "steps": STEPS,
            "evaluate_every": EVERY,
            "batch_size": BATCH,
            "lr": LR,
            "momentum": 0,
            "weight_decay": 0,
            "schedule": "constant",
        },
    }
    return SearchSpace.from_dict(raw, overrides)


def by_hand() -> list[tuple[torch.Tensor, float]]:
    """SAM's weights and validation loss after each evaluation, from its definition: ε̂ of each group of M examples."""
    passes = [example(number, index) for number in range(6) for index in range(21)]
    weight = linear_net(3, (3,)).weight.detach().clone()
    found = []
    for step in range(STEPS):
        batch = passes[step * BATCH : (step + 1) * BATCH]
        total = torch.zeros_like(weight)
        for start in range(0, BATCH, M):
            inputs = torch.stack([x for x, _ in batch[start : start + M]])
            targets = torch.tensor([y for _, y in batch[start : start + M]])

            def gradient(at: torch.Tensor, inputs: torch.Tensor = inputs, targets: torch.Tensor = targets) -> Any:
                at = at.clone().requires_grad_()
                return torch.autograd.grad(cross_entropy(inputs @ at.T, targets), at)[0]

            ascent = gradient(weight)
            total += gradient(weight + RHO * ascent / ascent.norm()) * M / BATCH
        weight = weight - LR * total
        if (step + 1) % EVERY == 0 or step + 1 == STEPS:
            inputs, targets = kept(10)
            found.append((weight, cross_entropy(inputs @ weight.T, targets).item()))
    return found


def train(rank: int, num_workers: int, spec: TrialSpec) -> tuple[list[dict[str, float]], list[torch.Tensor]]:
    run = TrialRun(spec, rank=rank, num_workers=num_workers, device=CPU)
    weights = []
    for epoch in range(1, spec.num_epochs + 1):
        run.train_epoch(epoch)
        weights.append(run.model.state_dict()["weight"].clone())
    return run.history, weights


def is_by_hand(history: list[dict[str, float]], weights: list[torch.Tensor]) -> None:
    assert [record["num_steps"] for record in history] == [4, 8, 11]
    for record, weight, (expected, loss) in zip(history, weights, by_hand(), strict=True):
        torch.testing.assert_close(weight, expected, rtol=0, atol=1e-12)
        assert record["val_loss"] == pytest.approx(loss, abs=1e-6)  # whose outputs are float32


@pytest.mark.parametrize("validation", ["kept", "stream"])
@pytest.mark.parametrize("kind", ["passes", "state"])
def test_it_is_the_loop_by_hand_on_one_rank(kind: str, validation: str) -> None:
    is_by_hand(*train(0, 1, space_of(train=kind, validation=validation).trial({})))


def test_it_is_the_loop_by_hand_on_two_ranks() -> None:
    for history, weights in run_ranks(2, train, space_of(validation="stream").trial({})):
        is_by_hand(history, weights)


@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize("kind", ["passes", "state", "function"])
def test_a_trial_that_was_left_in_the_middle_goes_on_bit_for_bit(tmp_path: Path, num_ranks: int, kind: str) -> None:
    spec = space_of(train=kind).trial({})
    arguments: dict[str, Any] = {"after": 2}
    if num_ranks == 1:
        left, whole = [leave_and_go_on(0, 1, spec, str(tmp_path), **arguments)], [uninterrupted(0, 1, spec)]
    else:
        left = run_ranks(2, leave_and_go_on, spec, str(tmp_path), **arguments)
        whole = run_ranks(2, uninterrupted, spec)
    for (history, tensors), (other_history, others) in zip(left, whole, strict=True):
        assert history == other_history
        assert all(torch.equal(a, b) for a, b in zip(tensors, others, strict=True))


def test_repeats_go_through_it_side_by_side(tmp_path: Path) -> None:
    spec = space_of("repeats=2", train="state").trial({})
    left = leave_and_go_on(0, 1, spec, str(tmp_path), after=5)  # in the second of the two
    assert left[0] == uninterrupted(0, 1, spec)[0]


def test_a_final_trial_is_tested_once() -> None:
    spec = space_of(*FINAL).trial({}).model_copy(update={"final": True})
    history, _ = train(0, 1, spec)
    assert ["test_loss" in record for record in history] == [False, False, True]


def test_diagnostics_look_at_its_first_examples() -> None:
    diagnostics = "training.diagnostics={lambda_max: 1, num_examples: 8, m: [4]}"
    record = train(0, 1, space_of(diagnostics).trial({}))[0][0]
    without = train(0, 1, space_of().trial({}))[0][0]
    assert record["lambda_max"] > 0
    assert record["num_passes"] > without["num_passes"]


def test_the_first_batch_is_tried() -> None:
    for validation in ("kept", "stream"):
        try_first_batch(space_of(validation=validation).trial({}), 2, CPU)


def test_the_plan_knows_its_steps() -> None:
    plan = plan_search(space_of("num_trials=3"), [Node(cpus=2, gpus=0)])
    assert (plan.is_stream, plan.num_train, plan.num_validation) == (True, None, 10)
    assert (plan.epochs, plan.steps_per_epoch) == ((3, 3), (4, 4))
    assert dict(format_plan(plan))["data"] == "helpers.streams:streams: an iterable, 10 validation examples"
    unknown = plan_search(space_of("num_trials=3", validation="stream"), [Node(cpus=2, gpus=0)])
    assert dict(format_plan(unknown))["data"] == "helpers.streams:streams: an iterable"


@pytest.mark.parametrize(
    ("overrides", "options", "line"),
    [
        (["training.epochs=3"], {}, r"training.steps: is needed instead of epochs: \S+ gives an iterable"),
        (["training.bootstrap=1"], {}, r"training.bootstrap: \S+ gives an iterable: its labels .* \(got 1\)"),
        (["data.folds=3"], {}, r"data.folds: \S+ gives an iterable: folds are parts .* \(got 3\)"),
        (["data.num_train=10"], {}, r"data.num_train: \S+ gives an iterable: no part of it .* \(got 10\)"),
        (["data.fraction=0.5"], {}, r"data.fraction: \S+ gives an iterable: no part of it .* \(got 0.5\)"),
        (["data.label_noise=0.2"], {}, r"data.label_noise: \S+ gives an iterable: its labels .* \(got 0.2\)"),
        (["data.mixup=0.2"], {}, r"data.mixup: \S+ gives an iterable: mix its examples there \(got 0.2\)"),
        (["data.loader_processes=2"], {}, r"data.loader_processes: \S+ gives an iterable: each worker .* \(got 2\)"),
        (["data.num_classes=null"], {}, r"data.num_classes: is needed: \S+ gives an iterable, which does not tell"),
        ([], {"validation": "none"}, r"data.validation_fraction: .* nothing can be held out: return \(train, valid"),
        (FINAL, {"test": False}, r"data.validation_fraction must not be 0: .* no test set"),
        ([], {"train": "empty"}, r"data.name: \S+: train: no example in it"),
        ([], {"train": "generator"}, r"data.name: \S+: train: must be .* a fresh iterator \(got generator, an iter"),
    ],
)
def test_what_it_does_not_allow_is_one_line_before_a_worker_starts(
    overrides: list[str], options: dict[str, Any], line: str
) -> None:
    with pytest.raises((DatasetError, UsageError), match=line) as caught:
        plan_search(space_of(*overrides, **options), [Node(cpus=2, gpus=0)])
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        (
            "same_iterator",
            r"train: no example in it when it was gone through again: return a fresh iterator each time$",
        ),
        ("shapes", r"data.name: an input|train: examples: "),
        ("many_classes", r"train: classes must be in 0\.\.2 \(found \d+\)$"),
    ],
)
def test_what_shows_only_while_it_is_read_is_one_line(kind: str, line: str) -> None:
    with pytest.raises(DatasetError, match=line) as caught:
        train(0, 1, space_of(train=kind, count=24).trial({}))
    assert len(str(caught.value).splitlines()) == 1


def test_a_state_that_no_checkpoint_holds_is_one_line() -> None:
    run = TrialRun(space_of(train="unsaved").trial({}), rank=0, num_workers=1, device=CPU)
    run.train_epoch(1)
    with pytest.raises(UsageError, match=r"^data.name: \S+: the state of its training set.own.object cannot be saved"):
        run.state_dict()


def test_a_set_of_two_parts_has_nothing_to_validate_on_but_can_be_confirmed() -> None:
    with pytest.raises(DatasetError, match="nothing can be held out"):
        dataset_info(space_of(name="helpers.streams:two_sets").trial({}).data)
    final = space_of(*FINAL, name="helpers.streams:two_sets").trial({})
    assert dataset_info(final.data).num_train is None


def test_the_documented_stream_is_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = read_topic("your-own-code")
    (program,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "# my_stream.py" in block)
    (space,) = (block for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "my_stream.py:load" in block)
    (tmp_path / "my_stream.py").write_text(program)
    (tmp_path / "stream.yaml").write_text(space)
    monkeypatch.chdir(tmp_path)
    spec = SearchSpace.from_yaml(str(tmp_path / "stream.yaml")).trial({"method.rho": 0.05, "training.lr": 0.02})
    run = TrialRun(spec, rank=0, num_workers=1, device=CPU)
    records = [run.train_epoch(epoch) for epoch in range(1, spec.num_epochs + 1)]
    assert [record["num_steps"] for record in records] == [40, 80, 120]
    assert records[-1]["train_loss"] < records[0]["train_loss"]
    assert records[-1]["val_accuracy"] > 0.7


def test_the_order_of_a_worker_s_trials_does_not_matter() -> None:
    spec = space_of(train="state").trial({})
    first, _ = train(0, 1, spec)
    made = WithState.made
    second, _ = train(0, 1, spec)
    assert WithState.made - made >= STEPS * BATCH  # the second one has read all of its own
    for record in (*first, *second):
        del record["epoch_seconds"], record["train_seconds"]
    assert first == second
