"""The dual norm of SAM's equation 2, and the arithmetic on lists of tensors."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from samtune.sam import vectors

PS = [1.0, 1.001, 1.5, 2.0, 3.0, 10.0, math.inf]


def gradient(dtype=torch.float64, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(3, 4), (5,), (), (0,), (2, 1, 3)]
    return [(scale * torch.randn(s, generator=generator, dtype=torch.float64)).to(dtype) for s in shapes]


def flat(vector):
    return torch.cat([tensor.flatten() for tensor in vector])


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        # g = (3, -4), rho = 0.5
        (2.0, (0.3, -0.4)),  # 0.5 · g / 5
        (math.inf, (0.5, -0.5)),  # 0.5 · sign(g)
        (1.0, (0.0, -0.5)),  # all on the largest
        # p = 3, q = 3/2: sign(g) √|g| / (3^1.5 + 4^1.5)^(1/3) · 0.5, with 3^1.5 + 4^1.5 = 5.196152 + 8 = 13.196152
        # and its cube root 2.363089; √3 / 2.363089 / 2 = 0.366480, 2 / 2.363089 / 2 = 0.423175
        (3.0, (0.366480, -0.423175)),
    ],
)
def test_dual_norm_by_hand(p, expected):
    vector = [torch.tensor([3.0], dtype=torch.float64), torch.tensor(-4.0, dtype=torch.float64)]
    length = vectors.dual_norm_(vector, 0.5, p)
    assert_close(flat(vector), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-5)
    assert_close(length, torch.tensor(5.0, dtype=torch.float64))


@pytest.mark.parametrize("p", PS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e12])
def test_norm_is_rho_and_dtype_is_kept(p, dtype, scale):
    vector = gradient(dtype, scale=scale)
    signs = [tensor.sign() for tensor in vector]
    vectors.dual_norm_(vector, 0.05, p)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.02}[dtype]
    assert torch.linalg.vector_norm(flat(vector).double(), p).item() == pytest.approx(0.05, rel=tolerance)
    assert all(tensor.dtype == dtype for tensor in vector)
    assert all(((tensor.sign() == sign) | (tensor == 0)).all() for tensor, sign in zip(vector, signs, strict=True))


@pytest.mark.parametrize("p", PS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-37, 1e-30, 1e-23, 3e-22, 1e-21, 1e-19, 1e19, 1e25, 1e37])
def test_squares_neither_vanish_nor_overflow(p, dtype, scale):
    """The norm of ε̂ is rho for every gradient that its dtype can hold, not only where its squares fit too."""
    vector = gradient(dtype, scale=scale)
    length = vectors.dual_norm_(vector, 0.05, p)
    assert torch.linalg.vector_norm(flat(vector).double(), p).item() == pytest.approx(0.05, rel=0.02)
    assert length.item() == pytest.approx(torch.linalg.vector_norm(flat(gradient(dtype, scale=scale)).double()).item())


@pytest.mark.parametrize("p", PS)
def test_numbers_below_the_smallest_normal_one_never_give_more_than_rho(p):
    vector = [torch.full((100,), 1e-42), torch.zeros(3)]
    vectors.dual_norm_(vector, 0.05, p)
    assert torch.linalg.vector_norm(flat(vector).double(), p).item() <= 0.05 * (1 + 1e-5)


@pytest.mark.parametrize("p", PS)
@pytest.mark.parametrize("dtypes", [(torch.float32, torch.float16), (torch.bfloat16, torch.float64), (torch.float16,)])
def test_dtypes_mix_and_keep(p, dtypes):
    """Entries of 2,000 in 16 bits: their squares overflow there. Whatever the order of the dtypes."""
    for order in (dtypes, dtypes[::-1]):
        vector = [torch.full((500,), 2000.0 if dtype == torch.float16 else 1.0, dtype=dtype) for dtype in order]
        exact = vectors.dual_norm_([tensor.to(torch.float64, copy=True) for tensor in vector], 0.05, p)
        length = vectors.dual_norm_(vector, 0.05, p)
        assert [tensor.dtype for tensor in vector] == list(order)
        assert length.item() == pytest.approx(exact.item(), rel=1e-5)
        size = torch.linalg.vector_norm(flat([tensor.double() for tensor in vector]), p).item()
        assert size == pytest.approx(0.05, rel=0.02)


def test_a_16_bit_vector_is_scaled_in_32_bits():
    """A factor of 1e6 does not exist in float16, the product does."""
    vector = [torch.full((3,), 6e-5, dtype=torch.float16)]
    expected = vector[0].double() * 1e6
    for found in (vectors.scaled(vector, torch.tensor(1e6)), vector):
        if found is vector:
            vectors.scale_(vector, torch.tensor(1e6))
        assert_close(found[0].double(), expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("p", PS)
def test_it_maximises_the_inner_product(p):
    """gᵀε̂ = rho ‖g‖_q (Hölder's inequality holds with equality), and no other point of the ball does better."""
    g = flat(gradient())
    vector = gradient()
    vectors.dual_norm_(vector, 0.3, p)
    q = math.inf if p == 1 else 1.0 if p == math.inf else p / (p - 1)
    best = g @ flat(vector)
    peak = g.abs().max()  # torch's own norm overflows for large q
    assert_close(best, 0.3 * peak * torch.linalg.vector_norm(g / peak, q), rtol=1e-9, atol=0)
    others = torch.randn(1000, len(g), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    others = 0.3 * others / torch.linalg.vector_norm(others, p, dim=1, keepdim=True)
    assert (others @ g).max() < best


@pytest.mark.parametrize("p", PS)
def test_zero_gradient_gives_zero(p):
    vector = [torch.zeros(3), torch.zeros(2, 2)]
    vectors.dual_norm_(vector, 0.1, p)
    assert all((tensor == 0).all() for tensor in vector)


@pytest.mark.parametrize("p", PS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_stays_visible(p, bad):
    vector = [torch.tensor([1.0, bad]), torch.ones(2)]
    length = vectors.dual_norm_(vector, 0.1, p)
    assert not torch.isfinite(length)
    assert flat(vector).isnan().any()


@pytest.mark.parametrize("p", PS)
def test_empty_list(p):
    assert vectors.dual_norm_([], 0.1, p) == 0


def test_other_memory_layouts():
    weight = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    for p in PS:
        permuted, plain = [weight.clone()], [weight.clone().contiguous()]
        vectors.dual_norm_(permuted, 0.1, p)
        vectors.dual_norm_(plain, 0.1, p)
        assert_close(permuted[0], plain[0], check_stride=False)


def test_project():
    vector = [torch.tensor([3.0]), torch.tensor([4.0])]
    vectors.project_(vector, 10.0, 2.0)
    assert_close(flat(vector), torch.tensor([3.0, 4.0]))  # inside: unchanged
    vectors.project_(vector, 1.0, 2.0)
    assert_close(flat(vector), torch.tensor([0.6, 0.8]))
    vector = [torch.tensor([3.0, -0.5, -2.0])]
    vectors.project_(vector, 1.0, math.inf)
    assert_close(vector[0], torch.tensor([1.0, -0.5, -1.0]))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_norm_and_dot_of_large_tensors_are_exact_to_rounding(layout):
    """Of 3 million entries summed one after another in float32, the norm is off by 6e-5."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(4, 3, 500, 500, generator=generator).to(memory_format=layout) for _ in range(2))
    small = torch.ones(3)
    exact = torch.sqrt((a.double() ** 2).sum() + 3)
    assert_close(vectors.norm([a, small]).double(), exact, rtol=2e-6, atol=0)
    assert_close(vectors.dot([a, small], [b, small]).double(), (a.double() * b).sum() + 3, rtol=0, atol=1e-5 * 1732)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_add_with_a_factor(dtype):
    target = [torch.tensor([1.0, 2.0], dtype=dtype), torch.tensor(3.0, dtype=torch.float64)]
    other = [torch.tensor([4.0, -8.0], dtype=dtype), torch.tensor(1.0, dtype=torch.float64)]
    vectors.add_(target, other, torch.tensor(0.5, dtype=torch.float64))
    assert target[0].tolist() == [3.0, -2.0]
    assert target[1] == 3.5
    assert other[0].tolist() == [4.0, -8.0]
    vectors.add_(target, other, torch.tensor(1e60, dtype=torch.float64))  # the inverse of a tiny norm is a number yet
    assert target[1] == 1e60


def test_count_nonzero():
    assert vectors.count_nonzero([torch.tensor([0.0, 1e-30, -2.0]), torch.zeros(2), torch.tensor(5.0)]) == 3
    assert vectors.count_nonzero([torch.ones(300, 5, dtype=torch.bfloat16), torch.empty(0)]) == 1500
    assert vectors.count_nonzero([]) == 0


def test_inner_product_and_cosine():
    a, b = [torch.tensor([1.0, 2.0]), torch.tensor(3.0)], [torch.tensor([4.0, -5.0]), torch.tensor(6.0)]
    assert vectors.dot(a, b) == 4 - 10 + 18
    assert vectors.cosine(a, [2 * t for t in a]).item() == pytest.approx(1.0)
    assert vectors.cosine(a, [torch.zeros(2), torch.zeros(())]) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [6, 2**18])
@pytest.mark.parametrize("bad", [None, math.nan, math.inf, -math.inf])
def test_whether_all_entries_are_numbers(dtype, size, bad):
    tensors = [torch.randn(size).to(dtype), torch.tensor([-0.0, 1e4, 1e-40], dtype=dtype)]
    if bad is not None:
        tensors[0][-1] = bad
    before = [tensor.clone() for tensor in tensors]
    found = vectors.are_finite(tensors)
    assert found.dtype == torch.bool
    assert bool(found) == (bad is None)
    for tensor, old in zip(tensors, before, strict=True):
        assert_close(tensor, old, rtol=0, atol=0, equal_nan=True)
        assert torch.equal(torch.signbit(tensor), torch.signbit(old))


@torch.no_grad()
def test_of_nothing_and_of_unusual_tensors_all_entries_are_numbers():
    with torch.enable_grad():
        with_graph = torch.ones(3, requires_grad=True) * 2
    assert vectors.are_finite([])
    for unusual in (torch.ones(1).expand(5), torch.ones(2, 0), torch.eye(3).to_sparse(), with_graph):
        assert vectors.are_finite([unusual, torch.ones(2)])
        assert not vectors.are_finite([unusual, torch.tensor([math.inf])])
    assert with_graph._version == 0


def test_looking_for_numbers_does_not_depend_on_the_default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        assert vectors.are_finite([torch.ones(3, dtype=torch.float32)])
        assert vectors.are_finite([torch.ones(3)])
    finally:
        torch.set_default_dtype(torch.float32)
