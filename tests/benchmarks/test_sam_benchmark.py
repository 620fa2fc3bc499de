"""The benchmark runs, and its contestants do the same work."""

from __future__ import annotations

import pytest
import torch
from helpers.ranks import run_ranks
from torch.testing import assert_close

from samtune.benchmarks import sam as benchmark


def test_contestants_take_the_same_step(monkeypatch):
    """Every SAM of the table moves the weights alike: else their times would not be comparable."""
    monkeypatch.setitem(benchmark.MODELS, "tiny", lambda: (torch.nn.Linear(3, 4), (3,), 4))
    made = []
    build = benchmark.Setting.build

    def remember(setting):
        made.append(build(setting))
        return made[-1]

    monkeypatch.setattr(benchmark.Setting, "build", remember)
    setting = benchmark.Setting("tiny", 8, torch.device("cpu"), "fp32", channels_last=False)
    steps = benchmark.contestants(setting, [1, 4], ["samtune.sam.optimizer:SAM"])
    for _ in range(3):
        for step in steps.values():
            step()
    weights = dict(zip(steps, (model.weight.detach() for model, _, _ in made), strict=True))
    ours = weights["samtune TrainStep, m = b"]
    assert_close(weights["samtune SAM.step(closure), m = b"], ours, rtol=0, atol=1e-8)
    assert_close(weights["samtune.sam.optimizer:SAM, m = b"], ours, rtol=0, atol=1e-8)
    assert_close(weights[benchmark.LEAST], ours, rtol=0, atol=1e-8)
    assert not torch.equal(weights["SGD: forward + backward + step"], ours)


def test_table_gives_the_ratio_to_the_limit_of_the_same_round():
    table = benchmark.format_table({benchmark.LIMIT: [1.0, 2.0, 4.0], "x": [1.5, 3.0, 6.0]})
    assert table.splitlines()[2].split() == ["x", "3000.00", "1.500", "1.500", "…", "1.500"]


def test_command_line(monkeypatch, capsys):
    monkeypatch.setitem(benchmark.MODELS, "tiny", lambda: (torch.nn.Linear(3, 4), (3,), 4))
    monkeypatch.setattr(benchmark, "installed_peers", lambda say: [])
    benchmark.main(
        [
            *("--models", "tiny", "--rounds", "3", "--steps", "2", "--batch-size", "8", "--device", "cpu"),
            *("--no-collectives", "--cpu-time"),
        ]
    )
    printed = capsys.readouterr().out
    assert "tiny: 16 weights in 2 tensors" in printed
    assert "samtune TrainStep, m = b/8" in printed


def count(rank, num_ranks):
    setting = benchmark.Setting("many_small", 8, torch.device("cpu"), "fp32", channels_last=False)
    return benchmark.collectives_per_step(rank, num_ranks, setting)


@pytest.mark.slow
def test_collectives_of_sgd_and_sam_are_the_same():
    """One gradient of 160 tensors, in as many buckets as DistributedDataParallel makes of it."""
    counts = run_ranks(2, count)[0]
    size = 4 * 80 * (64 * 64 + 64)
    assert counts["SGD"][1] == size
    assert counts["SAM, m = b"] == counts["SAM, m = b/4"] == counts["SGD"]
    assert counts["SAM, m = global"] == (counts["SGD"][0] + 1, 2 * size)


@pytest.mark.parametrize("name", benchmark.MODELS)
def test_models(name):
    model, shape, classes = benchmark.MODELS[name]()
    assert model(torch.zeros(2, *shape)).shape == (2, classes)
