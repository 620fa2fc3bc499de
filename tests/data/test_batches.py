"""Batches: every example once, the same global batch for any number of workers, augmentation keyed by example."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.dataset_files import write_cifar10_parquet
from torch import Tensor
from torch.testing import assert_close

from samtune.config.data import Cifar10Config, DataConfig, DigitsConfig, ParquetConfig
from samtune.data import Dataset, eval_batches, load_dataset, steps_per_epoch, train_batches, training_examples
from samtune.data.augment import crop_and_mirror

CPU = torch.device("cpu")


@pytest.fixture
def config(tmp_path: Path) -> Cifar10Config:
    write_cifar10_parquet(tmp_path / "cifar")
    return Cifar10Config(root=str(tmp_path / "cifar"), augmentation="basic")


def epoch_of(
    dataset: Dataset, config: DataConfig, *, batch_size: int = 24, num_workers: int = 1, seed: int = 5, epoch: int = 0
) -> list[tuple[Tensor, Tensor]]:
    """The global batches, put together from all ranks."""
    ranks = [
        list(
            train_batches(
                dataset,
                config,
                batch_size=batch_size,
                rank=rank,
                num_workers=num_workers,
                seed=seed,
                epoch=epoch,
                device=CPU,
            )
        )
        for rank in range(num_workers)
    ]
    return [
        (torch.cat([inputs for inputs, _ in shares]), torch.cat([targets for _, targets in shares]))
        for shares in zip(*ranks, strict=True)
    ]


@pytest.mark.parametrize("num_workers", [2, 3, 4])
@pytest.mark.parametrize(
    "change",
    [
        {"augmentation": "none"},
        {"augmentation": "basic"},
        {"augmentation": "autoaugment", "cutout": 16},
        {"augmentation": "randaugment", "mixup": 1.0},
        {"augmentation": "resized_crop"},
        {"augmentation": "trivialaugment", "cutmix": 1.0},
        {"mixup": 0.4, "cutmix": 1.0},
    ],
    ids=lambda change: "-".join(map(str, change.values())),
)
def test_global_batch_is_the_same_bit_for_bit_for_any_number_of_workers(
    config: Cifar10Config, change: dict[str, Any], num_workers: int
) -> None:
    config = config.model_copy(update=change)
    dataset = load_dataset(config)
    alone, together = epoch_of(dataset, config), epoch_of(dataset, config, num_workers=num_workers)
    assert len(alone) == len(together) == 90 // 24
    for (inputs, targets), (other_inputs, other_targets) in zip(alone, together, strict=True):
        assert torch.equal(inputs, other_inputs)
        assert torch.equal(targets, other_targets)


def test_cifar_from_parquet_is_augmented_by_the_policy_that_is_named(tmp_path: Path) -> None:
    """As fine-tuning reads it; without `policy`, files of images get ImageNet's."""
    write_cifar10_parquet(tmp_path)
    named = Cifar10Config(root=str(tmp_path), augmentation="autoaugment")
    files = ParquetConfig(root=str(tmp_path), augmentation="autoaugment", image_column="img", policy="cifar10")
    pixels = []
    for config in (named, files, files.model_copy(update={"policy": "imagenet"})):
        dataset = load_dataset(config)
        mean, std = (torch.tensor(values)[:, None, None] for values in (dataset.mean, dataset.std))
        pixels.append(epoch_of(dataset, config)[0][0] * std + mean)
    assert_close(pixels[0], pixels[1], rtol=0, atol=1e-4)
    assert float((pixels[1] - pixels[2]).abs().max()) > 0.1


def test_batches_have_the_promised_types(config: Cifar10Config) -> None:
    inputs, targets = epoch_of(load_dataset(config), config)[0]
    assert inputs.shape == (24, 3, 32, 32)
    assert inputs.dtype == torch.float32
    assert inputs.is_contiguous()
    assert targets.shape == (24,)
    assert targets.dtype == torch.int64


def test_unaugmented_epoch_is_the_training_split_normalised(tmp_path: Path) -> None:
    train, _ = write_cifar10_parquet(tmp_path)
    config = Cifar10Config(root=str(tmp_path), augmentation="none")
    dataset = load_dataset(config)
    batches = epoch_of(dataset, config, batch_size=90)
    mean = np.array([0.4914, 0.4822, 0.4465])[:, None, None]
    std = np.array([0.2470, 0.2435, 0.2616])[:, None, None]
    expected = (train[dataset.train.indices.numpy()] / 255 - mean) / std
    inputs, targets = batches[0]
    # Which example is where: the first pixels identify a random image.
    order = [int(np.abs(expected - image.numpy()).sum(axis=(1, 2, 3)).argmin()) for image in inputs]
    assert sorted(order) == list(range(90))
    np.testing.assert_allclose(inputs.numpy(), expected[order], atol=1e-5)
    assert torch.equal(targets, dataset.train.labels[order])


def test_order_is_a_function_of_seed_and_epoch() -> None:
    config = DigitsConfig()
    dataset = load_dataset(config)

    def targets(**where: int) -> list[int]:
        return torch.cat([labels for _, labels in epoch_of(dataset, config, batch_size=64, **where)]).tolist()

    first = targets(seed=0, epoch=0)
    assert targets(seed=0, epoch=0) == first
    assert targets(seed=0, epoch=1) != first
    assert targets(seed=1, epoch=0) != first


def test_remainder_is_dropped_and_is_another_one_each_epoch() -> None:
    config = DigitsConfig(num_train=100)
    dataset = load_dataset(config)
    assert steps_per_epoch(dataset, batch_size=60) == 1
    seen = [epoch_of(dataset, config, batch_size=60, epoch=epoch)[0][0].flatten(1) for epoch in range(20)]
    assert len(torch.cat(seen).unique(dim=0)) == len(dataset.train.images.unique(dim=0))


def test_augmentation_is_keyed_by_the_example_and_changes_with_the_epoch(config: Cifar10Config) -> None:
    dataset = load_dataset(config)

    def images(batch_size: int, epoch: int) -> set[int]:
        batches = epoch_of(dataset, config, batch_size=batch_size, epoch=epoch)
        return {hash(image.numpy().tobytes()) for inputs, _ in batches for image in inputs}

    # An example's place in its batch differs with the batch size; its pixels must not.
    assert images(90, 0) == images(30, 0) == images(10, 0)
    # In another epoch, an example is augmented in the same of 9 * 9 * 2 ways once in 162 times.
    assert len(images(90, 0) & images(90, 1)) < 6


def test_crop_and_mirror_agree_with_a_loop_over_images() -> None:
    """Each result is the crop of the padded image at some offset, possibly mirrored, and all of them occur."""
    images = torch.randint(0, 256, (3000, 1, 4, 4), dtype=torch.uint8, generator=torch.manual_seed(0))
    result = crop_and_mirror(images, torch.arange(3000), 11, padding=1, mirror=True)
    found = np.zeros((3, 3, 2), dtype=int)
    for image, augmented in zip(images.numpy(), result.numpy(), strict=True):
        padded = np.zeros((1, 6, 6), dtype=np.uint8)
        padded[:, 1:5, 1:5] = image
        matches = [
            (top, left, mirror)
            for top in range(3)
            for left in range(3)
            for mirror in range(2)
            if np.array_equal(padded[:, top : top + 4, left : left + 4][:, :, :: -1 if mirror else 1], augmented)
        ]
        assert len(matches) >= 1
        found[matches[0]] += 1
    # 18 outcomes of equal probability: mean 167, standard deviation 12.5.
    assert found.min() > 100
    assert found.max() < 235


def test_images_whose_class_has_a_direction_are_not_mirrored() -> None:
    config = DigitsConfig(augmentation="basic", num_train=1000)
    dataset = load_dataset(config)
    inputs = torch.cat([batch for batch, _ in epoch_of(dataset, config, batch_size=50)])
    black = inputs.min()
    pixels = torch.nn.functional.pad(dataset.train.images.float() / 255, [1] * 4)
    crops = {
        pixels[:, :, top : top + 8, left : left + 8][row].mul(16).round().numpy().tobytes()
        for top in range(3)
        for left in range(3)
        for row in range(len(pixels))
    }
    restored = (inputs - black).mul(dataset.std[0] * 16).round().abs()
    assert all(image.numpy().tobytes() in crops for image in restored)


@pytest.mark.parametrize("num_workers", [1, 2, 3, 7])
def test_evaluation_sees_each_example_exactly_once(num_workers: int) -> None:
    dataset = load_dataset(DigitsConfig())
    split = dataset.validation
    inputs, targets = [], []
    for rank in range(num_workers):
        for batch in eval_batches(dataset, split, batch_size=10, rank=rank, num_workers=num_workers, device=CPU):
            inputs.append(batch[0])
            targets.append(batch[1])
    expected = (split.images / 255 - dataset.mean[0]) / dataset.std[0]
    torch.testing.assert_close(torch.cat(inputs), expected.float())
    assert torch.equal(torch.cat(targets), split.labels)
    assert max(map(len, targets)) <= 10


def test_more_workers_than_examples_leave_some_with_nothing() -> None:
    dataset = load_dataset(DigitsConfig(num_train=4, validation_fraction=0.5))
    shares = [
        list(eval_batches(dataset, dataset.validation, batch_size=8, rank=rank, num_workers=5, device=CPU))
        for rank in range(5)
    ]
    assert sorted(len(share) for share in shares) == [0, 0, 0, 1, 1]


def test_batch_larger_than_the_training_split() -> None:
    config = DigitsConfig(num_train=100)
    dataset = load_dataset(config)
    with pytest.raises(ValueError, match=r"batch_size must not exceed the training examples \(91 > 90\)"):
        epoch_of(dataset, config, batch_size=91)


def test_workers_that_do_not_divide_the_batch() -> None:
    config = DigitsConfig()
    with pytest.raises(ValueError, match=r"num_workers must divide batch_size \(3 does not divide 64\)"):
        epoch_of(load_dataset(config), config, batch_size=64, num_workers=3)


def test_training_examples_are_unaugmented_and_reproducible(config: Cifar10Config) -> None:
    dataset = load_dataset(config)
    inputs, targets = training_examples(dataset, 40, device=CPU)
    again, _ = training_examples(dataset, 40, device=CPU)
    assert torch.equal(inputs, again)
    assert inputs.shape == (40, 3, 32, 32)
    plain, labels = epoch_of(dataset, config.model_copy(update={"augmentation": "none"}), batch_size=90)[0]
    known = {image.numpy().tobytes(): int(label) for image, label in zip(plain, labels, strict=True)}
    assert [known[image.numpy().tobytes()] for image in inputs] == targets.tolist()
    assert len(training_examples(dataset, 1000, device=CPU)[1]) == 90


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_and_cpu_batches_are_the_same(config: Cifar10Config) -> None:
    dataset = load_dataset(config)
    arguments = {"batch_size": 30, "rank": 0, "num_workers": 1, "seed": 0, "epoch": 0}
    cuda = torch.device("cuda", 0)
    for (a, s), (b, t) in zip(
        train_batches(dataset, config, device=CPU, **arguments),
        train_batches(dataset, config, device=cuda, **arguments),
        strict=True,
    ):
        assert torch.equal(a, b.cpu())
        assert torch.equal(s, t.cpu())
