"""What crosses the workers: as much as in SGD, no ascent gradients (m <= b), and a stop when one is not finite."""

from __future__ import annotations

import gc
import math
import weakref
from typing import Any

import pytest
import torch
import torch.distributed as dist
from helpers.ranks import run_ranks
from helpers.reference import flat_weights, mean_over_groups
from helpers.sam_training import BATCH_SIZE, batch, examples, make_network, make_optimizer
from test_contract import METHODS
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from samtune.benchmarks.sam import all_reduce_sizes
from samtune.config.method import MethodConfig, SAMConfig
from samtune.sam import SAM, TrainStep

NUM_WEIGHTS = 6 * 8 + 8 + 8 * 3 + 3  # of the small network: 83


def make(rank: int, num_ranks: int, method: MethodConfig, dtype: torch.dtype = torch.float64, **layers: Any) -> Any:
    model = make_network(dtype, **layers)
    optimizer = make_optimizer(model)
    step = TrainStep(
        model,
        nn.CrossEntropyLoss(),
        optimizer,
        method,
        batch_size=BATCH_SIZE,
        num_workers=num_ranks,
        rank=rank,
    )
    step.begin_epoch(0, 1, steps_per_epoch=4, examples=examples)
    return model, step


def shard(rank: int, num_ranks: int, index: int, dtype: torch.dtype = torch.float64) -> Any:
    size = BATCH_SIZE // num_ranks
    inputs, targets = batch(index, dtype=dtype)
    return inputs[rank * size : (rank + 1) * size], targets[rank * size : (rank + 1) * size]


# -- how much ---------------------------------------------------------------------------------------------------------
def count(rank: int, num_ranks: int, method: MethodConfig) -> list[list[int]]:
    _, step = make(rank, num_ranks, method)
    step(*shard(rank, num_ranks, 0))  # wraps the model
    return [all_reduce_sizes(lambda i=i: step(*shard(rank, num_ranks, i))) for i in (1, 2)]


@pytest.mark.parametrize("name", METHODS)
def test_one_all_reduce_of_the_gradient_per_step_as_in_sgd(name):
    second, third = run_ranks(2, count, METHODS[name])[0]
    if name == "looksam":  # k = 2: the SAM steps need the averaged ascent gradient too
        assert (second, third) == ([NUM_WEIGHTS], [NUM_WEIGHTS, NUM_WEIGHTS])
    elif name in ("fsam", "vasso"):  # the mean of the whole batch's ascent gradient
        assert second == third == [NUM_WEIGHTS, NUM_WEIGHTS]
    elif name == "aesam":  # of each rank its squared norms and its passes
        assert second == third == [NUM_WEIGHTS, 4]
    else:
        assert second == third == [NUM_WEIGHTS]


@pytest.mark.parametrize(("m", "expected"), [(4, [83]), (8, [83]), ("global", [83, 83])])
def test_the_ascent_communicates_only_where_a_group_spans_workers(m, expected):
    assert run_ranks(2, count, SAMConfig(m=m))[0][0] == expected


# -- the trap ---------------------------------------------------------------------------------------------------------
def directions(rank: int, num_ranks: int, recipe: str) -> torch.Tensor:
    """w - w' of one SAM step with lr 1 on 2 workers, by several recipes."""
    torch.set_num_threads(1)
    model = make_network()
    inputs, targets = shard(rank, num_ranks, 0)
    before = flat_weights(model)
    if recipe == "train_step":
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        step = TrainStep(
            model,
            nn.CrossEntropyLoss(),
            optimizer,
            SAMConfig(rho=0.5),
            batch_size=BATCH_SIZE,
            num_workers=num_ranks,
            rank=rank,
        )
        step(inputs, targets)
        return before - flat_weights(model)
    wrapped = DistributedDataParallel(model)
    sam = SAM(model.parameters(), torch.optim.SGD, rho=0.5, lr=1.0, m="global" if recipe == "global" else "worker")

    def closure():
        sam.zero_grad()
        loss = nn.functional.cross_entropy(wrapped(inputs), targets)
        loss.backward()
        return loss

    if recipe in ("step", "global"):
        sam.step(closure)
    elif recipe == "first_step":
        closure()
        sam.first_step(zero_grad=True)
        closure()
        sam.second_step(zero_grad=True)
    elif recipe == "forward_outside_no_sync":  # the recipe of the best-known PyTorch SAM's README
        loss = nn.functional.cross_entropy(wrapped(inputs), targets)
        with wrapped.no_sync():
            loss.backward()
        averaged_by_accident = [p.grad.clone() for p in model.parameters()]
        sam._perturb(averaged_by_accident)
        closure()
        sam._weights.restore()
        sam.base_optimizer.step()
    assert wrapped.require_backward_grad_sync
    return before - flat_weights(model)


@pytest.mark.parametrize("recipe", ["train_step", "step", "first_step"])
def test_each_worker_perturbs_by_its_own_gradient(recipe):
    own = mean_over_groups(8, sam_share)
    for found in run_ranks(2, directions, recipe):
        assert_close(found, own, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("recipe", ["global", "forward_outside_no_sync"])
def test_the_wrong_recipe_averages_and_would_be_noticed(recipe):
    own, averaged = mean_over_groups(8, sam_share), mean_over_groups(16, sam_share)
    for found in run_ranks(2, directions, recipe):
        assert_close(found, averaged, rtol=1e-10, atol=1e-13)
        assert (found - own).abs().max() > 1e-4


def sam_share(reference, w):
    g = reference.gradient(w)
    return reference.gradient(w + 0.5 * g / g.norm())


# -- all workers alike ------------------------------------------------------------------------------------------------
def skip_on_one_rank(rank: int, num_ranks: int, method: MethodConfig, when: str) -> dict[str, Any]:
    model, step = make(rank, num_ranks, method, batch_norm=True)
    step(*shard(rank, num_ranks, 0))
    before, momentum = flat_weights(model), step.optimizer.state[step.parameters[0]]["momentum_buffer"].clone()
    inputs, targets = shard(rank, num_ranks, 1)
    forwards: list[int] = []

    def poison(module: nn.Module, arguments: Any, outputs: torch.Tensor) -> torch.Tensor | None:
        forwards.append(1)
        return outputs * math.nan if rank == 1 and len(forwards) == {"first": 1, "second": 2}[when] else None

    handle = model.layers[-1].register_forward_hook(poison)
    step(inputs, targets)
    handle.remove()
    after = flat_weights(model)
    kept = torch.equal(after, before) and torch.equal(
        step.optimizer.state[step.parameters[0]]["momentum_buffer"], momentum
    )
    step(*shard(rank, num_ranks, 2))
    return {
        "kept": kept,
        "moved": not torch.equal(flat_weights(model), before),
        "weights": flat_weights(model),
        "running": model.layers[1].running_var.clone(),
        "skipped": step.epoch_metrics()["skipped_steps"],
    }


@pytest.mark.parametrize("when", ["first", "second"])
@pytest.mark.parametrize("name", METHODS)
def test_all_workers_skip_when_one_has_a_gradient_that_is_not_finite(name, when):
    if when == "second" and (METHODS[name].passes_per_step < 2):
        pytest.skip("a single pass in this step")
    results = run_ranks(2, skip_on_one_rank, METHODS[name], when)
    for result in results:
        assert result["kept"]
        assert result["moved"]
        assert result["skipped"] == 1
        assert torch.isfinite(result["running"]).all()
        assert torch.equal(result["weights"], results[0]["weights"])


def float32_weights(rank: int, num_ranks: int) -> torch.Tensor:
    model, step = make(rank, num_ranks, SAMConfig(rho=0.3), torch.float32)
    for index in range(100):
        step(*shard(rank, num_ranks, index, torch.float32))
    return flat_weights(model)


def test_float32_weights_are_bit_identical_on_all_workers_after_100_steps():
    results = run_ranks(4, float32_weights)
    assert all(torch.equal(result, results[0]) for result in results)


def average_statistics(rank: int, num_ranks: int) -> tuple[torch.Tensor, torch.Tensor]:
    model, step = make(rank, num_ranks, SAMConfig(), batch_norm=True)
    step(*shard(rank, num_ranks, 0))
    own = model.layers[1].running_mean.clone()
    step.average_running_statistics()
    return own, model.layers[1].running_mean.clone()


def test_running_statistics_are_averaged():
    (own_0, averaged_0), (own_1, averaged_1) = run_ranks(2, average_statistics)
    assert not torch.equal(own_0, own_1)
    assert torch.equal(averaged_0, averaged_1)
    assert_close(averaged_0, (own_0 + own_1) / 2)


# -- a warm worker process --------------------------------------------------------------------------------------------
def many_trials(rank: int, num_ranks: int) -> tuple[int, list[bool]]:
    from samtune.sam import m_group

    made: list[int] = []
    original = dist.new_subgroups

    def counted(*args: Any, **kwargs: Any) -> Any:
        made.append(1)
        return original(*args, **kwargs)

    dist.new_subgroups = counted
    alive: list[bool] = []
    try:
        for _ in range(3):
            model, step = make(rank, num_ranks, SAMConfig(m=8))
            step(*shard(rank, num_ranks, 0))
            references = weakref.ref(step), weakref.ref(model), weakref.ref(step._distributed)
            del model, step
            gc.collect()
            alive += [reference() is not None for reference in references]
    finally:
        dist.new_subgroups = original
    assert m_group.ascent_group(2).size() == 2
    return len(made), alive


def test_trials_in_one_process_share_sub_groups_and_leave_nothing_behind():
    for num_made, alive in run_ranks(4, many_trials):
        assert num_made == 1
        assert not any(alive)


def resume(rank: int, num_ranks: int, method: MethodConfig) -> bool:
    model, step = make(rank, num_ranks, method, torch.float32)
    for index in range(3):
        step(*shard(rank, num_ranks, index, torch.float32))
    weights, state = {k: v.clone() for k, v in model.state_dict().items()}, step.state_dict()
    state["optimizer"] = torch.utils._pytree.tree_map(
        lambda x: x.clone() if isinstance(x, torch.Tensor) else x, state["optimizer"]
    )
    for index in range(3, 6):
        step(*shard(rank, num_ranks, index, torch.float32))
    resumed_model, resumed = make(rank, num_ranks, method, torch.float32)
    resumed_model.load_state_dict(weights)
    resumed.load_state_dict(state)
    for index in range(3, 6):
        resumed(*shard(rank, num_ranks, index, torch.float32))
    return torch.equal(flat_weights(resumed_model), flat_weights(model))


@pytest.mark.parametrize("name", ["sam", "looksam", "fsam", "frob_sam", "sam_random"])
def test_resumed_equals_uninterrupted_on_ranks(name):
    assert run_ranks(2, resume, METHODS[name]) == [True, True]
