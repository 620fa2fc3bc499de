"""The splits of a loaded data set: sizes, strata, determinism, sharing within a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.dataset_files import write_cifar10_parquet

from samtune.config.data import Cifar10Config, DataConfig, DigitsConfig
from samtune.data import Dataset, dataset_info, load_dataset
from samtune.errors import DatasetError


def parts(dataset: Dataset) -> tuple[list[int], list[int]]:
    return dataset.train.indices.tolist(), dataset.validation.indices.tolist()


@pytest.fixture
def root(tmp_path: Path) -> str:
    write_cifar10_parquet(tmp_path / "cifar")
    return str(tmp_path / "cifar")


def test_validation_is_stratified_and_disjoint(root: str) -> None:
    dataset = load_dataset(Cifar10Config(root=root, validation_fraction=0.2))
    train, validation = parts(dataset)
    assert sorted(train + validation) == list(range(100))
    assert torch.bincount(dataset.validation.labels).tolist() == [2] * 10
    assert torch.bincount(dataset.train.labels).tolist() == [8] * 10
    for split in (dataset.train, dataset.validation):  # in these files, row k is of class k mod 10
        assert torch.equal(split.labels, split.indices % 10)


def test_split_seed_chooses_the_split(root: str) -> None:
    splits = [parts(Dataset(Cifar10Config(root=root, split_seed=seed))) for seed in (0, 0, 1)]
    assert splits[0] == splits[1]
    assert splits[0][1] != splits[2][1]


def test_num_train_is_stratified_and_includes_the_validation_examples(root: str) -> None:
    dataset = load_dataset(Cifar10Config(root=root, num_train=50, validation_fraction=0.2))
    assert (len(dataset.train), len(dataset.validation)) == (40, 10)
    assert torch.bincount(dataset.train.labels).tolist() == [4] * 10
    assert torch.bincount(dataset.validation.labels).tolist() == [1] * 10
    assert not set(dataset.train.indices.tolist()) & set(dataset.validation.indices.tolist())


@pytest.mark.parametrize("change", [{}, {"num_train": 37}, {"validation_fraction": 0.33}])
def test_info_agrees_with_the_loaded_dataset(root: str, change: dict[str, float]) -> None:
    for config in (Cifar10Config(root=root, **change), DigitsConfig(**change)):
        info, dataset = dataset_info(config), load_dataset(config)
        assert (info.num_train, info.num_validation) == (len(dataset.train), len(dataset.validation))
        assert (info.num_classes, info.input_shape) == (dataset.num_classes, dataset.input_shape)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DigitsConfig(num_train=1439), r"data.num_train must not exceed the 1438 training examples of digits \(1439\)"),
        (
            DigitsConfig(num_train=4, validation_fraction=0.1),
            r"data.validation_fraction must leave .*\(0.1 of 4 is 0\)",
        ),
        (
            DigitsConfig(num_train=4, validation_fraction=0.9),
            r"data.validation_fraction must leave .*\(0.9 of 4 is 4\)",
        ),
    ],
)
def test_empty_or_impossible_split(config: DataConfig, message: str) -> None:
    for function in (dataset_info, load_dataset):
        with pytest.raises(DatasetError, match=message):
            function(config)


def test_equal_configurations_share_one_dataset_and_all_share_the_pixels(root: str) -> None:
    first = load_dataset(Cifar10Config(root=root))
    assert load_dataset(Cifar10Config(root=root)) is first
    other = load_dataset(Cifar10Config(root=root, num_train=60, augmentation="none"))
    assert other is not first
    assert other.train.source is first.validation.source


def test_relative_root_follows_the_working_directory(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(root).parent)
    config = Cifar10Config(root="cifar")
    assert len(load_dataset(config).train) == 90
    monkeypatch.chdir("/")
    with pytest.raises(DatasetError, match="cifar10 is not in /cifar"):
        load_dataset(config)


def test_a_search_reads_nothing_of_the_test_set(root: str) -> None:
    (Path(root) / "test-00000-of-00001.parquet").write_bytes(b"damaged")
    dataset = load_dataset(Cifar10Config(root=root))
    with pytest.raises(DatasetError, match=r"test-00000-of-00001\.parquet"):
        dataset.load_test()


def test_parquet_needs_no_torchvision(root: str) -> None:
    code = f"""
import sys
from samtune.data import load_dataset
from samtune.config.data import Cifar10Config, DigitsConfig
load_dataset(Cifar10Config(root={root!r})), load_dataset(DigitsConfig())
print("torchvision" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "False", run.stderr
