"""Stratified choices: the class shares, nesting, determinism."""

from __future__ import annotations

import torch

from samtune.data.subset import split_rows, stratified_order


def test_every_prefix_has_the_class_shares_of_the_whole() -> None:
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)[torch.randperm(100, generator=torch.manual_seed(0))]
    order = stratified_order(labels, 1)
    for count in (10, 20, 50, 90):
        # Shares of 50%, 30%, 20%: 10 rows are 5, 3 and 2, and so on.
        expected = torch.tensor([count // 2, 3 * count // 10, count // 5])
        assert torch.equal(torch.bincount(labels[order[:count]]), expected)


def test_rows_that_do_not_divide_evenly_differ_by_at_most_one() -> None:
    labels = torch.arange(97) % 7
    for count in range(1, 97):
        counts = torch.bincount(labels[stratified_order(labels, 2)[:count]], minlength=7)
        assert counts.max() - counts.min() <= 1


def test_split_is_disjoint_complete_sorted_and_keyed() -> None:
    labels = torch.arange(100) % 10
    first, rest = split_rows(labels, 30, 0)
    assert len(first) == 30
    assert torch.equal(torch.cat([first, rest]).sort().values, torch.arange(100))
    assert torch.equal(first, first.sort().values)
    assert torch.equal(rest, rest.sort().values)
    assert torch.equal(first, split_rows(labels, 30, 0)[0])
    assert not torch.equal(first, split_rows(labels, 30, 1)[0])


def test_chosen_rows_come_from_the_whole_of_each_class() -> None:
    labels = torch.zeros(1000, dtype=torch.int64)
    first, _ = split_rows(labels, 500, 3)
    assert 400 < first.double().mean() < 600


def test_absent_classes_are_no_trouble() -> None:
    labels = torch.tensor([5, 5, 2, 2])
    assert torch.equal(
        torch.bincount(labels[stratified_order(labels, 0)[:2]], minlength=6), torch.tensor([0, 0, 1, 0, 0, 1])
    )
