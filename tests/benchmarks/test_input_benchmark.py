"""The benchmark of the input runs, compares like with like, and finds one copy of the data set."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.dataset_files import write_cifar10_parquet

from samtune.benchmarks import input as benchmark
from samtune.benchmarks.input_contestants import write_idx
from samtune.config.data import Cifar10Config, FashionMnistConfig
from samtune.data import load_dataset

CPU = torch.device("cpu")


def test_all_contestants_make_batches_of_the_same_kind(tmp_path: Path) -> None:
    write_cifar10_parquet(tmp_path)
    config = Cifar10Config(root=str(tmp_path))
    small = benchmark.contestants(load_dataset(config), config, 30, [0], CPU)
    large = benchmark.photograph_contestants(tmp_path / "photographs", 16, 0, CPU)
    shapes: list[Any] = []
    for epoch in (*small.values(), *large.values()):
        inputs, targets = next(iter(epoch(0)))
        assert inputs.dtype == torch.float32
        assert targets.dtype == torch.int64
        assert abs(float(inputs.mean())) < 0.6
        shapes.append((tuple(inputs.shape), tuple(targets.shape)))
    assert shapes == [((30, 3, 32, 32), (30,))] * 2 + [((1, 3, 224, 224), (1,))] * 2


def test_tables_have_a_line_for_each_contestant(tmp_path: Path) -> None:
    write_cifar10_parquet(tmp_path)
    config = Cifar10Config(root=str(tmp_path))
    epochs = benchmark.contestants(load_dataset(config), config, 30, [0], CPU)
    speed = benchmark.images_per_second(epochs, 1, 2, CPU).splitlines()
    assert [line.split()[0] for line in speed[1:]] == ["samtune", "torchvision,"]
    assert speed[1].split()[-1] == "1.00"
    waiting = benchmark.share_waiting(epochs, 1, 1, CPU).splitlines()
    assert len(waiting) == len(speed)
    assert all(re.fullmatch(r"\d+\.\d%", line.split()[-1]) for line in waiting[1:])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's shares of memory")
def test_another_worker_adds_no_copy_of_the_data_set(tmp_path: Path) -> None:
    import numpy as np

    write_idx(tmp_path / "FashionMNIST" / "raw", 120_000, np.random.default_rng(0))  # 90 MiB
    table = benchmark.memory_table(FashionMnistConfig(root=str(tmp_path)), [1, 2]).splitlines()
    one, mapped_by_two, another, copied_by_two = (float(line.split()[-2]) for line in table[1:])
    assert max(one, mapped_by_two, another) < 145 < copied_by_two  # 90 and 180, give or take what else a process does
