"""Which rows of a data set are used: stratified choices that depend on labels, seed and nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from samtune.config.data import DataConfig
from samtune.data.counter_rng import fold, random_int, random_order

# Streams of random numbers, apart from those of the batches.
_SUBSET, _VALIDATION, _NOISY, _NEW_LABEL = range(1000, 1004)


def stratified_order(labels: Tensor, *key: int) -> Tensor:
    """An order of all rows of which every prefix is stratified.

    A prefix of k rows holds, of a class with share s, between floor(k·s) and ceil(k·s) rows up to rounding; prefixes
    are nested, so more rows only add to fewer.

    Args:
        labels: int64 [N].
        key: integers that choose the order.

    Returns:
        int64 [N], a permutation of the rows.
    """
    shuffled = random_order(fold(*key), torch.arange(len(labels)))
    by_class = shuffled[torch.argsort(labels[shuffled], stable=True)]
    sizes = torch.bincount(labels)
    starts = sizes.cumsum(0) - sizes
    classes = labels[by_class]
    rank = torch.arange(len(labels)) - starts[classes]
    # The row of rank r in a class of size n comes when a share of (r + 1/2)/n of everything has been taken.
    share = torch.empty(len(labels), dtype=torch.float64)
    share[by_class] = (rank.double() + 0.5) / sizes[classes]
    return shuffled[torch.argsort(share[shuffled], stable=True)]


def split_rows(labels: Tensor, num_first: int, *key: int) -> tuple[Tensor, Tensor]:
    """`num_first` stratified rows and the rest, each ascending."""
    order = stratified_order(labels, *key)
    return order[:num_first].sort().values, order[num_first:].sort().values


def select_rows(
    config: DataConfig, labels: Tensor, num_train: int, num_validation: int, fold: int = 0
) -> tuple[Tensor, Tensor]:
    """The rows to train and to validate on, each ascending.

    Args:
        config: `fraction` takes the first rows, `num_train` a stratified choice of these, `validation_fraction` a
            stratified choice of the rest, or `folds` one fold of it.
        labels: int64 [N] of the whole training set.
        num_train, num_validation: how many of each; with `folds`, of the first fold.
        fold: which one validates, counted from 0.
    """
    first = labels[: round(len(labels) * config.fraction)]
    used, _ = split_rows(first, num_train + num_validation, config.split_seed, _SUBSET)
    if config.folds is not None and num_validation:
        is_validation = fold_of_rows(labels[used], config.folds, config.split_seed) == fold
        return used[~is_validation], used[is_validation]
    validation, train = split_rows(labels[used], num_validation, config.split_seed, _VALIDATION)
    return used[train], used[validation]


def fold_of_rows(labels: Tensor, folds: int, seed: int) -> Tensor:
    """The fold that each row validates, stratified: two folds differ by at most one row of each class, and in all.

    Args:
        labels: int64 [N].

    Returns:
        int64 [N], from 0 to folds - 1.
    """
    shuffled = random_order(fold(seed, _VALIDATION), torch.arange(len(labels)))
    by_class = shuffled[torch.argsort(labels[shuffled], stable=True)]
    assigned = torch.empty(len(labels), dtype=torch.int64)
    assigned[by_class] = torch.arange(len(labels)) % folds
    return assigned


def flip_labels(labels: Tensor, rows: Tensor, rate: float, num_classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Symmetric label noise: a share of the labels becomes another class, each other class being as likely.

    Exactly round(rate * N) labels change. Which, and to what, depends on the example's row and the seed; with a larger
    rate, the examples changed include those of a smaller one.

    Args:
        labels: int64 [N].
        rows: int64 [N], the identity of the examples.
        rate: in [0, 1].
        num_classes: labels are in [0, num_classes).
        seed: of the noise.

    Returns:
        The new labels, int64 [N], and the ascending positions of those that changed, int64 [round(rate * N)].
    """
    order = random_order(fold(seed, _NOISY), rows)
    flipped = order[: round(rate * len(labels))].sort().values
    if len(flipped) == 0:
        return labels, flipped
    shift = 1 + random_int(fold(seed, _NEW_LABEL), rows[flipped], num_classes - 1)
    noisy = labels.clone()
    noisy[flipped] = (labels[flipped] + shift) % num_classes
    return noisy, flipped
