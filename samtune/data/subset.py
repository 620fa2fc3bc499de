"""Which rows of a data set are used: stratified choices that depend on labels, seed and nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from samtune.data.hashing import fold, random_order


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
