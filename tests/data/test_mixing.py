"""Cutout, Mixup, CutMix and label noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from samtune.config.data import DigitsConfig
from samtune.data import load_dataset, train_batches
from samtune.data.augment import cutout
from samtune.data.mixing import Mix, draw_mix
from samtune.data.subset import flip_labels

CPU = torch.device("cpu")


def test_cutout_removes_one_clipped_square_of_each_image() -> None:
    inputs = cutout(torch.ones(4000, 2, 8, 8), torch.arange(4000), 3, size=4)
    assert set(inputs.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(inputs[:, 0], inputs[:, 1])
    removed = inputs[:, 0] == 0
    rows, columns = removed.any(2).sum(1), removed.any(1).sum(1)
    assert torch.equal(removed.sum((1, 2)), rows * columns)  # a rectangle
    # Middles 0 to 7 of squares [middle - 2, middle + 2): 2, 3, 4, 4, 4, 4, 4, 3 rows are inside.
    counts = torch.bincount(rows, minlength=5) / 4000
    torch.testing.assert_close(counts, torch.tensor([0, 0, 1 / 8, 2 / 8, 5 / 8]), atol=0.03, rtol=0)
    assert removed.any(0).all()


def test_cutout_of_normalised_images_is_the_mean() -> None:
    config = DigitsConfig(cutout=4)
    dataset = load_dataset(config)
    arguments = {"batch_size": 64, "rank": 0, "num_workers": 1, "seed": 0, "epoch": 0, "device": CPU}
    with_cutout, _ = next(train_batches(dataset, config, **arguments))
    plain, _ = next(train_batches(dataset, DigitsConfig(), **arguments))
    changed = with_cutout != plain
    assert (with_cutout[changed] == 0).all()
    assert changed.sum((1, 2, 3)).min() >= 4
    assert changed.sum((1, 2, 3)).max() == 16


def test_mixup_by_hand() -> None:
    mix = Mix(0.75)
    own, partner = torch.full((1, 1, 2, 2), 8.0), torch.full((1, 1, 2, 2), 4.0)
    assert torch.equal(mix.inputs(own, partner), torch.full((1, 1, 2, 2), 7.0))
    targets = mix.targets(torch.tensor([0, 2]), torch.tensor([1, 2]), 3)
    assert torch.equal(targets, torch.tensor([[0.75, 0.25, 0.0], [0.0, 0.0, 1.0]]))


def test_cutmix_by_hand() -> None:
    mix = Mix(0.5, (0, 2, 1, 2))
    own, partner = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    assert torch.equal(mix.inputs(own, partner), torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]]))
    assert torch.equal(own, torch.zeros(1, 1, 2, 2))


def test_weights_follow_the_beta_distribution() -> None:
    weights = np.array([draw_mix(0.4, 0.0, 32, 32, key).weight for key in range(4000)])
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2a + 1)).
    assert abs(weights.mean() - 0.5) < 0.03
    assert abs(weights.var() - 1 / (4 * 1.8)) < 0.01


def test_cutmix_weight_is_the_share_of_own_pixels() -> None:
    areas = []
    for key in range(2000):
        mix = draw_mix(0.0, 1.0, 16, 32, key)
        assert mix.box is not None
        top, bottom, left, right = mix.box
        assert 0 <= top <= bottom <= 16
        assert 0 <= left <= right <= 32
        area = (bottom - top) * (right - left) / 512
        assert mix.weight == pytest.approx(1 - area)
        areas.append(area)
    assert 0.25 < np.mean(areas) < 0.5  # uniform in [0, 1] before it is clipped
    assert max(areas) > 0.7


def test_mixup_and_cutmix_take_turns() -> None:
    boxes = [draw_mix(1.0, 1.0, 8, 8, key).box is not None for key in range(1000)]
    assert 400 < sum(boxes) < 600


@pytest.mark.parametrize("change", [{"mixup": 1.0}, {"cutmix": 1.0}])
def test_mixed_batches_are_mixed_with_the_batch_itself(change: dict[str, float]) -> None:
    config = DigitsConfig(**change)
    dataset = load_dataset(config)
    arguments = {"batch_size": 64, "rank": 0, "num_workers": 1, "seed": 0, "epoch": 0, "device": CPU}
    weights = []
    plain_batches = train_batches(dataset, DigitsConfig(), **arguments)
    for (inputs, targets), (plain, labels) in zip(
        train_batches(dataset, config, **arguments), plain_batches, strict=True
    ):
        assert targets.shape == (64, 10)
        torch.testing.assert_close(targets.sum(1), torch.ones(64))
        # Class counts are kept: the partners are a permutation of the batch.
        torch.testing.assert_close(targets.sum(0), torch.bincount(labels, minlength=10).float())
        torch.testing.assert_close(inputs.mean(0), plain.mean(0), atol=1e-5, rtol=1e-5)
        weights.append(round(float(targets.gather(1, labels[:, None]).min()), 4))
        assert torch.equal(inputs, plain) == (weights[-1] == 1)  # a small box may be empty
    assert len(weights) == 20
    assert len(set(weights)) > 6  # each batch has its own; boxes of 8x8 pixels are few


def test_label_noise_has_its_rate_and_is_uniform_over_the_other_classes() -> None:
    labels = torch.arange(50_000) % 10
    noisy, flipped = flip_labels(labels, torch.arange(50_000), 0.4, 10, 7)
    changed = (noisy != labels).nonzero().squeeze(1)
    assert len(changed) == 20_000
    assert torch.equal(changed, flipped)
    assert torch.equal(labels, torch.arange(50_000) % 10)
    table = torch.zeros(10, 10, dtype=torch.int64).index_put_(
        (labels[flipped], noisy[flipped]), torch.tensor(1), accumulate=True
    )
    assert (table.diagonal() == 0).all()
    off_diagonal = table[~torch.eye(10, dtype=torch.bool)]
    # 20,000 over 90 cells: mean 222, standard deviation 15.
    assert off_diagonal.min() > 150
    assert off_diagonal.max() < 295


def test_more_label_noise_keeps_the_noise_of_less() -> None:
    labels, rows = torch.arange(1000) % 10, torch.arange(1000)
    less, few = flip_labels(labels, rows, 0.2, 10, 0)
    more, many = flip_labels(labels, rows, 0.6, 10, 0)
    assert set(few.tolist()) < set(many.tolist())
    assert torch.equal(less[few], more[few])


def test_label_noise_spares_validation_and_test() -> None:
    clean, noisy = load_dataset(DigitsConfig()), load_dataset(DigitsConfig(label_noise=0.5))
    assert torch.equal(clean.train.indices, noisy.train.indices)
    assert len(noisy.flipped) == round(0.5 * len(clean.train))
    is_flipped = torch.isin(noisy.train.indices, noisy.flipped)
    assert torch.equal(clean.train.labels != noisy.train.labels, is_flipped)
    assert torch.equal(clean.validation.labels, noisy.validation.labels)
    assert torch.equal(clean.load_test().labels, noisy.load_test().labels)
    assert len(clean.flipped) == 0
    other = load_dataset(DigitsConfig(label_noise=0.5, label_noise_seed=1))
    assert not torch.equal(other.flipped, noisy.flipped)


def test_fraction_takes_the_beginning_of_the_training_set() -> None:
    dataset = load_dataset(DigitsConfig(fraction=0.1))
    rows = torch.cat([dataset.train.indices, dataset.validation.indices]).sort().values
    assert torch.equal(rows, torch.arange(144))  # of 1,438
    smaller = load_dataset(DigitsConfig(fraction=0.5, num_train=100))
    rows = torch.cat([smaller.train.indices, smaller.validation.indices])
    assert len(rows) == 100
    assert rows.max() < 719
