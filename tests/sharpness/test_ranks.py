"""Two gloo ranks with a share of the batches each answer what one process with all of them does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from helpers.problems import examples, network
from helpers.ranks import run_ranks
from test_refusal import OnceTanh
from torch import nn

from samtune import sharpness

CROSS_ENTROPY = nn.CrossEntropyLoss()
MEASURES = ("lambda_max", "top", "trace", "density", "m", "all", "adaptive", "universal", "bound", "surface")


def measure(name: str, batches: Any, group: Any = None) -> Any:
    model = network(norm=True)
    of = (model, CROSS_ENTROPY, batches)
    match name:
        case "lambda_max":
            return sharpness.lambda_max(*of, group=group)
        case "top":
            return sharpness.top_eigenvalues(*of, k=3, group=group)
        case "trace":
            return sharpness.trace(*of, max_probes=30, target_error=0.05, deflate=2, group=group)
        case "density":
            return sharpness.spectral_density(*of, num_probes=3, steps=10, group=group).moment(2)
        case "m":
            return sharpness.m_sharpness(*of, m=4, steps=2, group=group)
        case "all":
            return sharpness.m_sharpness(*of, group=group)
        case "adaptive":
            return sharpness.adaptive_sharpness(*of, m=2, group=group)
        case "universal":
            return sharpness.universal_measure(*of, num_directions=9, rho=0.1, group=group)
        case "bound":
            return sharpness.pac_bayes_bound(*of, group=group)
        case _:
            return sharpness.loss_surface(*of, num_points=3, group=group)


def on_rank(rank: int, num_ranks: int, sizes: tuple[int, ...]) -> list[Any]:
    """The first rank has 16 examples, the second 8; or the first has all."""
    inputs, targets = (torch.cat(parts) for parts in zip(*examples(), strict=True))
    shares = list(zip(inputs.split(list(sizes)), targets.split(list(sizes)), strict=True))
    own = [batch for batch in [shares[rank]] if len(batch[1])]
    return [measure(name, own, dist.group.WORLD) for name in MEASURES]


@pytest.mark.parametrize("sizes", [(16, 8), (24, 0)])
def test_two_ranks_answer_as_one(sizes):
    first, second = run_ranks(2, on_rank, sizes)
    assert [numbers(found) for found in second] == [pytest.approx(numbers(f), rel=0, abs=0, nan_ok=True) for f in first]
    for name, found in zip(MEASURES, first, strict=True):
        assert numbers(found) == pytest.approx(numbers(measure(name, examples())), rel=1e-6, nan_ok=True), name


def refused(rank: int, num_ranks: int) -> str:
    model = network()
    model[1] = OnceTanh()
    with pytest.raises(sharpness.NotTwiceDifferentiableError) as error:
        sharpness.trace(model, CROSS_ENTROPY, examples()[: 1 - rank], group=dist.group.WORLD)
    return str(error.value)


def test_a_refusal_reaches_the_rank_without_examples():
    assert ["another rank" in message for message in run_ranks(2, refused)] == [False, True]


def numbers(answer: Any) -> list[float]:
    """All of an answer's."""
    if isinstance(answer, float | int):
        return [float(answer)]
    if isinstance(answer, tuple):
        return [number for item in answer if not isinstance(item, str) for number in numbers(item)]
    return [number for field in type(answer).__slots__ for number in numbers(getattr(answer, field))]
