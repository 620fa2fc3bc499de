"""Random numbers that are a function of (seed, epoch, example, stream) and of nothing else.

A generator gives numbers in the order they are asked for; then the augmentation of an example would depend on the
worker that holds it. A hash of its coordinates does not: every rank, batch layout and device computes the same bits.
The hash is SplitMix64's finaliser (Steele, Lea & Flood 2014), in int64 arithmetic that wraps.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_MASK = 2**64 - 1


def fold(*numbers: int) -> int:
    """One 64-bit key of several integers; the order counts."""
    key = 0
    for number in numbers:
        key = _mix_int((_mix_int((key + _GOLDEN) & _MASK) + number) & _MASK)
    return key


def random_bits(key: int, index: Tensor) -> Tensor:
    """64 random bits for every entry of `index`.

    Args:
        key: of `fold`, the same for all entries.
        index: int64, any shape and device.

    Returns:
        int64 of the shape and on the device of `index`.
    """
    # Two rounds: with one, the keys k and k + GOLDEN would give sequences shifted by one. The second key must not be
    # the first round's value at any index: it would cancel there, for every key.
    mixed = _mix(index * _signed(_GOLDEN) + _signed(key & _MASK))
    return _mix(mixed ^ _signed(fold(key)))


def random_int(key: int, index: Tensor, high: int) -> Tensor:
    """Uniform integers in [0, high) with high <= 2**31, as int64 of the shape of `index`."""
    return (_shift(random_bits(key, index), 32) * high) >> 32


def random_uniform(key: int, index: Tensor) -> Tensor:
    """Uniform numbers in [0, 1) on a grid of 2**-53, as float64 of the shape of `index`."""
    return _shift(random_bits(key, index), 11).double() * 2.0**-53


def uniform_number(key: int, index: int) -> float:
    """What `random_uniform` gives for one index, without a tensor."""
    mixed = _mix_int((index * _GOLDEN + key) & _MASK)
    return (_mix_int(mixed ^ fold(key)) >> 11) * 2.0**-53


def random_order(key: int, index: Tensor) -> Tensor:
    """A permutation: positions into the one-dimensional `index`, in the order of the entries' random bits."""
    return torch.argsort(random_bits(key, index), stable=True)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _signed(_MIX_1)
    x = (x ^ _shift(x, 27)) * _signed(_MIX_2)
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right: int64's own keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix_int(x: int) -> int:
    x = ((x ^ (x >> 30)) * _MIX_1) & _MASK
    x = ((x ^ (x >> 27)) * _MIX_2) & _MASK
    return x ^ (x >> 31)


def _signed(x: int) -> int:
    """The int64 with the bits of the uint64 `x`."""
    return x - 2**64 if x >= 2**63 else x
