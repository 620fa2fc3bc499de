"""The counter-based random numbers: known answers, uniform, independent of layout."""

from __future__ import annotations

import torch

from samtune.data.counter_rng import _mix, _signed, fold, random_bits, random_int, random_order, random_uniform


def test_mix_gives_the_published_splitmix64_sequence() -> None:
    # The generator's first three outputs from seed 1234567 (Vigna's splitmix64.c, as in many test suites).
    golden = 0x9E3779B97F4A7C15
    states = torch.tensor([_signed((1234567 + k * golden) % 2**64) for k in (1, 2, 3)])
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [int(bits) % 2**64 for bits in _mix(states)] == expected


def test_fold_depends_on_every_number_and_on_their_order() -> None:
    keys = {fold(1, 2, 3), fold(1, 3, 2), fold(3, 2, 1), fold(1, 2), fold(1, 2, 4), fold(0, 0), fold(0), fold(0, 0, 0)}
    assert len(keys) == 8


def test_bits_are_a_function_of_the_index_alone() -> None:
    index = torch.arange(1000)
    bits = random_bits(fold(7), index)
    picked = torch.tensor([3, 999, 3, 500])
    assert torch.equal(random_bits(fold(7), picked), bits[picked])
    assert torch.equal(random_bits(fold(7), index.view(10, 100)), bits.view(10, 100))


def test_neighbouring_keys_and_indices_share_no_values() -> None:
    index = torch.arange(2000)
    values = torch.cat([random_bits(key, index) for key in (fold(0), fold(1), 0, 1, 0x9E3779B97F4A7C15)])
    assert len(values.unique()) == 10_000


def test_every_example_varies_over_keys() -> None:
    for example in (0, 1, 12345):
        bits = torch.stack([random_bits(fold(0, epoch), torch.tensor(example)) for epoch in range(400)])
        assert len(bits.unique()) == 400
        assert 150 < int((bits < 0).sum()) < 250  # binomial: mean 200, standard deviation 10


def test_integers_are_uniform_in_their_range() -> None:
    counts = torch.bincount(random_int(fold(3), torch.arange(90_000), 9))
    assert len(counts) == 9
    # Each count is binomial with mean 10,000 and standard deviation 94; five of those is beyond chance.
    assert (counts - 10_000).abs().max() < 470


def test_uniform_numbers_fill_the_unit_interval() -> None:
    values = random_uniform(fold(4), torch.arange(100_000))
    assert values.dtype == torch.float64
    assert 0 <= values.min() < 1e-3
    assert 0.999 < values.max() < 1
    assert abs(values.mean() - 0.5) < 0.005
    assert abs(values.var() - 1 / 12) < 0.001
    serial = torch.corrcoef(torch.stack([values[:-1], values[1:]]))[0, 1]
    assert abs(serial) < 0.016  # five standard deviations of an independent sequence


def test_order_is_a_permutation_that_mixes() -> None:
    index = torch.arange(1000)
    order = random_order(fold(5), index)
    assert torch.equal(order.sort().values, index)
    assert abs(torch.corrcoef(torch.stack([order.double(), index.double()]))[0, 1]) < 0.16
