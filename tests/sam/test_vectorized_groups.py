"""m-groups side by side in one stacked pass: what the loop makes, to rounding, and the loop where that cannot be."""

from __future__ import annotations

import copy
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.ranks import run_ranks
from helpers.sam_training import batch, examples, make_network, make_optimizer, train
from sam.test_contract import METHODS
from torch import Tensor, nn
from torch.testing import assert_close

from samtune.config.method import SAMConfig
from samtune.models.digits_cnn import DigitsCnn
from samtune.models.mlp import mlp
from samtune.sam import Method, TrainStep, group_runner
from samtune.sam.rules.sam import SAMRule
from samtune.testing.contract import ROUNDING
from samtune.testing.problem import flat_weights

ONE_AFTER_ANOTHER = (  # the rule looks at a group's loss or gradient more than once, or there is no group
    *("sgd", "sam_steps", "sam_second_order", "gsam", "aesam", "esam", "mesa"),
    *("trace_sam", "frob_sam", "det_sam", "universal"),
)


def make_step(model: nn.Module, m_groups: Any = "vectorized", **options: Any) -> TrainStep:
    options = {"batch_size": 16, "seed": 3, "method": Method(SAMRule, rho=0.1, m=4), **options}
    method = options.pop("method")
    return TrainStep(model, nn.CrossEntropyLoss(), make_optimizer(model), method, m_groups=m_groups, **options)


def is_vectorized(step: TrainStep) -> bool | None:
    """None: not decided, since there was nothing to decide."""
    return step.state_dict()["m_groups"].get("vectorized")


def everything_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_the_steps_of_the_loop(name: str) -> None:
    method = METHODS[name].model_copy(update={} if name == "sgd" else {"m": 4})
    runs = []
    for m_groups in ("loop", "vectorized"):
        model = make_network(batch_norm=True, unused=True)
        step = make_step(model, m_groups, method=method)
        step.begin_epoch(0, 1, steps_per_epoch=4, examples=partial(examples, dtype=torch.float64))
        for index in range(4):
            step(*batch(index))
        runs.append((everything_of(model), step.epoch_metrics(), step.passes))
    (loop, loop_metrics, loop_passes), (stacked, metrics, passes) = runs
    assert_close(stacked, loop, rtol=0, atol=1e-12)
    assert metrics == pytest.approx(loop_metrics, rel=1e-9, abs=1e-12)
    assert passes == loop_passes
    assert is_vectorized(step) is (None if name in ONE_AFTER_ANOTHER else True)


@pytest.mark.parametrize("network", ["digits_cnn", "mlp"])
def test_networks_of_the_spaces_take_the_steps_of_the_loop(network: str) -> None:
    """float64; pooling and convolutions too. 5 batches of two parts each, whose groups BatchNorm sees once."""
    found = []
    for m_groups in ("loop", "vectorized"):
        torch.manual_seed(5)
        model = (DigitsCnn(4, 10, (1, 8, 8)) if network == "digits_cnn" else mlp(3, 16, 10, (1, 8, 8))).double()
        step = make_step(model, m_groups, batch_size=32, accumulate=2)
        generator = torch.Generator().manual_seed(1)
        for _ in range(10):
            inputs = torch.randn(32, 1, 8, 8, generator=generator, dtype=torch.float64)
            step(inputs, torch.randint(0, 10, (32,), generator=generator))
        assert step.num_steps == 5
        found.append(everything_of(model))
    assert is_vectorized(step)
    assert_close(found[1], found[0], rtol=0, atol=1e-12)


def test_workers_take_the_steps_of_one() -> None:
    """m = 2 of 16: eight groups side by side on one worker, four on each of two, two on each of four."""
    method = SAMConfig(rho=0.1, m=2)
    options: dict[str, Any] = {"steps": 6, "layers": {"batch_norm": True}, "m_groups": "vectorized"}
    alone = train(0, 1, method, **{**options, "m_groups": "loop"})
    for num_ranks in (2, 4):
        results = run_ranks(num_ranks, train, method, **options)
        for result in results[1:]:
            assert torch.equal(result["weights"], results[0]["weights"])
        assert_close(results[0]["weights"], alone["weights"], **ROUNDING)
        assert_close(
            results[0]["buffers"]["layers.1.running_var"], alone["buffers"]["layers.1.running_var"], **ROUNDING
        )
        assert results[0]["metrics"] == pytest.approx(alone["metrics"], rel=1e-6, abs=1e-8)


@pytest.mark.parametrize(("precision", "share"), [("bf16", 0.1), ("fp16", 0.03)])
def test_lower_precision_stays_close_to_the_loop_in_float32(precision: Any, share: float) -> None:
    def final(m_groups: str, precision: Any) -> Tensor:
        model = make_network(torch.float32, batch_norm=True)
        step = make_step(model, m_groups, precision=precision)
        for index in range(4):
            step(*batch(index, dtype=torch.float32))
        assert step.epoch_metrics()["skipped_steps"] == 0
        return flat_weights(model)

    loop, stacked = final("loop", "fp32"), final("vectorized", precision)
    change = (loop - flat_weights(make_network(torch.float32, batch_norm=True))).norm()
    assert 0 < (stacked - loop).norm() < share * change


def test_a_batch_with_a_nan_changes_nothing() -> None:
    model = make_network(batch_norm=True)
    step = make_step(model)
    step(*batch(0))
    before = everything_of(model)
    inputs, targets = batch(1)
    inputs[5] = torch.nan
    step(inputs, targets)
    assert_close(everything_of(model), before, rtol=0, atol=0)
    assert is_vectorized(step)
    assert step.epoch_metrics()["skipped_steps"] == 1


# -- where it cannot be ------------------------------------------------------------------------------------------------


class Counter(nn.Module):
    """Counts its forwards in a buffer: one of a stacked pass, several of the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs: Tensor) -> Tensor:
        self.count += 1
        return inputs


class Branch(nn.Module):
    """Looks at its data."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs if inputs.mean() > 0 else 2 * inputs


class Doubled(nn.Module):
    """Sees the whole batch in its own way: no operation is refused, and the result is another one."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * (1.0 + torch._C._functorch.is_batchedtensor(inputs))


def with_hook() -> nn.Module:
    layer = nn.Tanh()
    layer.register_forward_hook(lambda module, inputs, outputs: None)
    return layer


@pytest.mark.parametrize(
    "make",
    [
        *(partial(nn.Dropout, 0.2), Counter, Branch, Doubled, with_hook),
        partial(nn.BatchNorm1d, 8, momentum=None, dtype=torch.float64),
    ],
    ids=["dropout", "counter", "branch", "other result", "hook", "cumulative mean"],
)
def test_a_network_that_does_not_fit_runs_in_the_loop_bit_for_bit(make: Any) -> None:
    found = []
    for m_groups in ("loop", "vectorized"):
        model = make_network()
        model.layers.insert(1, make())
        step = make_step(model, m_groups)
        for index in range(3):
            step(*batch(index))
        found.append(everything_of(model))
    assert is_vectorized(step) is False
    assert_close(found[1], found[0], rtol=0, atol=0)


def test_rules_of_ones_own_and_compiled_networks_run_in_the_loop() -> None:
    class Own(SAMRule):
        """What it does in `__call__` could be anything."""

    step = make_step(make_network(), method=Method(Own, rho=0.1, m=4))
    step(*batch(0))
    assert is_vectorized(step) is None
    model = make_network()
    step = make_step(model)
    model.compile(backend="eager")
    step(*batch(0))
    assert is_vectorized(step) is False


def test_dropout_that_begins_during_training_goes_on_in_the_loop() -> None:
    found = []
    for m_groups in ("loop", "vectorized"):
        model = make_network()
        dropout = nn.Dropout(0.0)
        model.layers.insert(1, dropout)
        step = make_step(model, m_groups)
        for index in range(6):
            dropout.p = 0.0 if index < 3 else 0.2
            step(*batch(index))
        found.append(everything_of(model))
        metrics = step.epoch_metrics()
    assert is_vectorized(step)  # what all workers agree on, and average their gradients by
    assert_close(found[1], found[0], rtol=0, atol=1e-12)
    assert metrics["skipped_steps"] == 0


# -- the choice --------------------------------------------------------------------------------------------------------


def test_a_resumed_training_goes_the_way_it_began_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where a timing would say something else."""
    for began in ("vectorized", "loop"):
        model = make_network(torch.float32, batch_norm=True)
        step = make_step(model, "auto")
        monkeypatch.setattr(group_runner.GroupRunner, "_pays", lambda *_: began == "vectorized")  # noqa: B023
        for index in range(3):
            step(*batch(index, dtype=torch.float32))
        second = make_network(torch.float32, batch_norm=True)
        second.load_state_dict(model.state_dict())
        resumed = make_step(second, "auto")
        resumed.load_state_dict(copy.deepcopy(step.state_dict()))
        monkeypatch.setattr(group_runner.GroupRunner, "_pays", lambda *_: began == "loop")  # noqa: B023
        for index in range(3, 6):
            step(*batch(index, dtype=torch.float32))
            resumed(*batch(index, dtype=torch.float32))
        assert is_vectorized(step) is is_vectorized(resumed) is (began == "vectorized")
        assert_close(everything_of(second), everything_of(model), rtol=0, atol=0)


def test_auto_takes_the_faster_way_and_remembers_the_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which one of the two takes a second, and the other no time."""
    seconds = 0.0
    clock = SimpleNamespace(perf_counter=lambda: seconds, thread_time=lambda: seconds)
    monkeypatch.setattr(group_runner, "time", clock)
    for slow, wanted in (("_losses_and_gradients_of_loop", True), ("_losses_and_gradients", False)):
        monkeypatch.setattr(group_runner, "_worth_it", {})
        original = getattr(group_runner.GroupRunner, slow)
        num_calls = 0

        def late(*args: Any, original: Any = original) -> Any:
            nonlocal seconds, num_calls
            seconds, num_calls = seconds + 1.0, num_calls + 1
            return original(*args)

        with monkeypatch.context() as patch:
            patch.setattr(group_runner.GroupRunner, slow, late)
            step = make_step(make_network(), "auto")
            step(*batch(0))
            assert is_vectorized(step) is wanted
            timed = num_calls
            make_step(make_network(), "auto")(*batch(0))
            assert num_calls == timed + 1  # the comparison alone


def test_large_networks_are_not_even_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_runner, "MOST_WEIGHTS", 4 * 83 - 1)
    step = make_step(make_network())
    step(*batch(0))
    assert is_vectorized(step) is False


def test_a_choice_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"m_groups must be auto, loop or vectorized \(got 'fast'\)"):
        make_step(make_network(), "fast")
