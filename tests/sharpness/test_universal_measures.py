"""The universal class as mathematics (Tahmasebi et al., ICML 2024): its examples, table 1, theorems 1, 2, 4 and 5."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.problems import DTYPE, Quadratic, row_mean, with_spectrum, zero_batches
from torch import Tensor, nn

from samtune.errors import UsageError
from samtune.experiments.sharpness.toy_examples import hessians, product, saddle, write
from samtune.sam.rules.universal import cube, gaussian
from samtune.sharpness import named_universal_measure, trace, universal_measure

ONE = [(torch.zeros(1, 1, dtype=DTYPE), torch.zeros(1))]


class Toy(nn.Module):
    """A function of two parameters as a loss."""

    def __init__(self, function: Callable[[Tensor], Tensor], at: tuple[float, float]) -> None:
        super().__init__()
        self.function = function
        self.w = nn.Parameter(torch.tensor(at, dtype=DTYPE))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(self.w).expand(len(inputs))


def hessian(function: Callable[[Tensor], Tensor], at: tuple[float, float]) -> Tensor:
    found: Tensor = torch.autograd.functional.hessian(function, torch.tensor(at, dtype=DTYPE))
    return found


# -- the examples of section 3.2 -----------------------------------------------------------------------------------


def test_example_1_the_trace_sees_no_difference_where_the_frobenius_norm_does() -> None:
    """H = 6·[[w₀, -w₁], [-w₁, -w₀]]: tr H = 0, ‖H‖_F² = 72·‖w‖², the largest eigenvalue 6·‖w‖."""
    for at in ((0.1, 0.0), (1.0, 1.0), (-2.0, 0.5)):
        assert trace(Toy(saddle, at), row_mean, ONE, max_probes=8).value == pytest.approx(
            0.0, abs=12 * math.sqrt(2) * math.hypot(*at)
        )
        matrix = hessian(saddle, at)
        assert float(matrix.trace()) == pytest.approx(0.0, abs=1e-12)
        assert float(matrix.square().sum()) == pytest.approx(72 * (at[0] ** 2 + at[1] ** 2))
        assert float(torch.linalg.eigvalsh(matrix)[-1]) == pytest.approx(6 * math.hypot(*at))


def test_example_2_the_trace_changes_with_the_scale_and_the_determinant_does_not() -> None:
    """On the manifold tr H = 2(w₀² + w₁²) goes to infinity with the scale; det H is scale-invariant everywhere."""
    traces = [float(hessian(product, (c, 1 / c)).trace()) for c in (1.0, 10.0, 100.0)]
    assert traces == pytest.approx([4.0, 2 * (100 + 0.01), 2 * (1e4 + 1e-4)])
    determinants = [float(torch.linalg.det(hessian(product, (2.0 * c, 0.8 / c)))) for c in (0.1, 1.0, 10.0)]
    assert determinants == pytest.approx([determinants[1]] * 3)
    assert determinants[1] != pytest.approx(0.0, abs=0.1)


def test_the_picture_of_both_examples_is_of_these_functions_and_does_not_change(tmp_path: Path) -> None:
    points = torch.tensor([[0.1, 0.0], [1.0, 1.0], [2.0, 0.5]], dtype=DTYPE)
    for loss in (saddle, product):
        expected = torch.stack([hessian(loss, (float(a), float(b))) for a, b in points])
        torch.testing.assert_close(hessians(loss, points), expected, rtol=1e-12, atol=1e-12)
    write(first := tmp_path / "first.svg")
    write(second := tmp_path / "second.svg")
    assert first.read_bytes() == second.read_bytes()
    assert "trace of H" in first.read_text("utf-8")


# -- table 1 -------------------------------------------------------------------------------------------------------

SPECTRUM = torch.tensor([3.0, 1.0, -0.5, 0.25], dtype=DTYPE)


def quadratic(spectrum: Tensor = SPECTRUM) -> tuple[nn.Module, Callable[[Tensor, Tensor], Tensor], list]:
    return Quadratic(with_spectrum(spectrum)), row_mean, zero_batches(len(spectrum))


def test_named_rows_of_the_table() -> None:
    n = 1500
    found = named_universal_measure("trace", *quadratic(), num_directions=n)
    assert abs(found.value - float(SPECTRUM.sum())) < 4 * found.standard_error < 1.5
    found = named_universal_measure("frobenius_squared", *quadratic(), num_directions=n)
    assert abs(found.value - float(SPECTRUM.square().sum())) < 4 * found.standard_error < 6
    with pytest.raises(UsageError, match=r"must be trace, frobenius_squared, determinant \(got 'det'\)"):
        named_universal_measure("det", *quadratic())


def test_the_determinant_row_in_a_wide_cube_and_in_the_published_one() -> None:
    """Eqs 16 and 17: ∫ e^(-t/2) dx = (4π)^(d/2)·det(H)^(-½), with t = ½ xᵀHx; the mean is that over (2a)^d."""
    spectrum = torch.tensor([2.0, 0.5], dtype=DTYPE)
    a = 8.0  # four deviations √(2/λ) of the Gaussian e^(-t/2)
    wide = named_universal_measure("determinant", *quadratic(spectrum), num_directions=4000, sampler=cube(a))
    scale = (4 * math.pi) ** 2 / (2 * a) ** 4
    assert abs(wide.value * scale - 1.0) < 4 * wide.standard_error * scale < 0.6
    # In the published cube: exp((a²/6)·tr H), whatever the determinant.
    for spectrum in ([4000.0, 1000.0], [2500.0, 2500.0]):
        found = named_universal_measure(
            "determinant", *quadratic(torch.tensor(spectrum, dtype=DTYPE)), num_directions=2000
        )
        assert found.value == pytest.approx(math.exp(0.01**2 / 6 * 5000), abs=4 * found.standard_error)
        assert found.standard_error < 5e-3


def test_polynomials_of_the_eigenvalues() -> None:
    """Eqs 18 to 26: ψ(t) = tⁿ with Gaussian directions is a homogeneous polynomial of degree n in the eigenvalues.

    The cumulants of xᵀHx are κ_r = 2^(r-1)·(r - 1)!·Σλ^r; its moments E (xᵀHx)ⁿ follow, and t = ½ xᵀHx.
    """
    p1, p2, p3 = (float((SPECTRUM**r).sum()) for r in (1, 2, 3))
    cumulants = (p1, 2 * p2, 8 * p3)
    moments = {
        1: cumulants[0],
        2: cumulants[1] + cumulants[0] ** 2,
        3: cumulants[2] + 3 * cumulants[1] * cumulants[0] + cumulants[0] ** 3,
    }
    for degree, moment in moments.items():
        found = universal_measure(*quadratic(), psi=lambda t, n=degree: t**n, num_directions=2000)
        assert abs(found.value - moment / 2**degree) < 4 * found.standard_error < abs(moment)
    # Eq. 26: from degrees 1 and 2 the Frobenius norm, (E t² - (E t)²)·2 = ‖H‖_F²
    squared = 2 * (moments[2] / 4 - (moments[1] / 2) ** 2)
    assert squared == pytest.approx(p2)


# -- theorem 1 -----------------------------------------------------------------------------------------------------


def eigenvalues_from(values: Tensor, slopes: Tensor) -> Tensor:
    """The eigenvalues from y_l = E exp(-s_l·t) = Π_i (1 + s_l·λ_i)^(-½), as in the proof of theorem 1.

    y_l^(-2) = P(s_l) is a polynomial of degree d with P(0) = 1: its coefficients solve a Vandermonde system, and its
    roots are -1/λ_i.
    """
    degree = len(slopes)
    vandermonde = torch.stack([slopes**power for power in range(1, degree + 1)], dim=1)
    coefficients = torch.linalg.solve(vandermonde, values**-2.0 - 1.0)  # of s, s², …, s^d
    # λ_i are the roots of λ^d - e₁·λ^(d-1) + e₂·λ^(d-2) - …, e_j the coefficient of s^j: of a companion matrix.
    companion = torch.zeros(degree, degree, dtype=values.dtype)
    companion[1:, :-1] = torch.eye(degree - 1, dtype=values.dtype)
    signs = torch.tensor([(-1.0) ** j for j in range(degree)], dtype=values.dtype)
    companion[0] = signs * coefficients
    companion[1:] = torch.eye(degree, dtype=values.dtype)[:-1]
    return torch.linalg.eigvals(companion).real.sort(descending=True).values


def test_theorem_1_exponentials_of_gaussian_directions_tell_every_function_of_the_eigenvalues() -> None:
    """k = d outputs ψ_l(t) = exp(-s_l·t), μ Gaussian, φ through the Vandermonde system: here for λ_max - λ_min."""
    spectrum = torch.tensor([0.9, 0.3, -0.2], dtype=DTYPE)
    slopes = torch.tensor([-0.4, 0.8, 2.0], dtype=DTYPE)  # 1 + s·λ > 0 for all, eq. 38
    exact = torch.stack([(1 + s * spectrum).prod() ** -0.5 for s in slopes])
    assert eigenvalues_from(exact, slopes).tolist() == pytest.approx(spectrum.tolist(), abs=1e-9)

    def spread(mean: Tensor) -> Tensor:
        found = eigenvalues_from(mean, slopes)
        return found[0] - found[-1]

    # The integrals themselves by Monte Carlo: eqs 27 to 37.
    found = universal_measure(
        *quadratic(spectrum),
        psi=lambda t: torch.exp(-slopes * t),
        phi=lambda mean: mean.sum(),
        num_directions=3000,
    )
    assert abs(found.value - float(exact.sum())) < 4 * found.standard_error < 0.2
    assert float(spread(exact)) == pytest.approx(1.1)


# -- theorem 2 -----------------------------------------------------------------------------------------------------


def dirac(*coordinates: int) -> Callable[..., list[Tensor]]:
    """The measure at the sum of unit vectors."""

    def draw(parameters: list[Tensor], gradient: list[Tensor], generator: torch.Generator) -> list[Tensor]:
        flat = torch.zeros(sum(p.numel() for p in parameters), dtype=parameters[0].dtype)
        flat[list(coordinates)] = 1.0
        return [
            part.view_as(p) for part, p in zip(flat.split([p.numel() for p in parameters]), parameters, strict=True)
        ]

    return draw


def entries(mean: Tensor, d: int) -> Tensor:
    """H from t(e_i) = ½H_ii and t(e_i + e_j) = ½(H_ii + H_jj) + H_ij: eqs 46 and 47."""
    matrix = torch.diag(2 * mean[:d])
    for value, (i, j) in zip(mean[d:], itertools.combinations(range(d), 2), strict=True):
        matrix[i, j] = matrix[j, i] = value - mean[i] - mean[j]
    return matrix


@pytest.mark.parametrize("function", [torch.linalg.det, lambda h: h.abs().sum(), lambda h: h[0, 1]])
def test_theorem_2_several_dirac_measures_tell_every_function_of_the_hessian(
    function: Callable[[Tensor], Tensor],
) -> None:
    """Also functions that are none of the eigenvalues, exactly and with one direction of each measure."""
    matrix = with_spectrum([3.0, 1.0, -0.5])
    measures = [dirac(i) for i in range(3)] + [dirac(i, j) for i, j in itertools.combinations(range(3), 2)]
    found = universal_measure(
        Quadratic(matrix),
        row_mean,
        zero_batches(3),
        sampler=measures,
        psi=lambda t: t.expand(6),
        phi=lambda mean: function(entries(mean, 3)),
        num_directions=1,
    )
    assert found.value == pytest.approx(float(function(matrix)), rel=1e-9)
    assert found.passes == pytest.approx(1 + 6 / 3)


def test_several_measures_have_directions_of_their_own() -> None:
    """Eqs 3 to 6: output l is the mean of ψ_l over μ_l. Gaussian: ½ tr H; a cube of half width a: (a²/6)·tr H."""
    found = universal_measure(
        *quadratic(),
        sampler=[gaussian, cube(3.0)],
        psi=lambda t: torch.stack([t, 10 * t]),
        phi=lambda mean: mean.sum(),
        num_directions=2000,
    )
    expected = (0.5 + 10 * 9 / 6) * float(SPECTRUM.sum())
    assert abs(found.value - expected) < 4 * found.standard_error < 0.2 * expected


# -- theorems 4 and 5 ----------------------------------------------------------------------------------------------


def after(transform: Tensor, function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda w: function(transform @ w)


def test_theorem_4_a_scale_invariant_measure_gives_a_scale_invariant_sharpness() -> None:
    """The Lebesgue measure is invariant under diagonal D with det D = 1, the Gaussian is not.

    L(Dw) = L(w) for D = diag(c, 1/c), so the Hessian at Dw is D⁻¹HD⁻¹: in a wide cube the determinant row is the same
    there, and the trace row is another.
    """
    at, c = (2.0, 0.8), 2.0
    here, there = hessian(product, at), hessian(product, (at[0] * c, at[1] / c))
    inverse = torch.diag(torch.tensor([1 / c, c], dtype=DTYPE))
    assert torch.allclose(there, inverse @ here @ inverse)
    positive = torch.diag(torch.tensor([1.0, 4.0], dtype=DTYPE))
    scaled = inverse @ positive @ inverse
    for name, options, invariant in (
        ("determinant", {"sampler": cube(8.0), "num_directions": 4000}, True),
        ("trace", {"num_directions": 4000}, False),
    ):
        values = [
            named_universal_measure(name, Quadratic(matrix), row_mean, zero_batches(2), **options)
            for matrix in (positive, scaled)
        ]
        gap = abs(values[0].value - values[1].value)
        noise = math.hypot(values[0].standard_error, values[1].standard_error)
        assert (gap < 4 * noise) is invariant
        assert noise < 0.3 * values[0].value


@pytest.mark.slow
def test_theorem_5_a_group_invariant_measure_gives_a_group_invariant_sharpness() -> None:
    """For A in the group, the measure at A⁻¹w of L∘A is that at w of L if μ is invariant: A·x is as likely as x.

    Rotations leave the Gaussian as it is, and permutations with signs the cube; a rotation does not leave the cube so.
    """
    turn = 0.7
    rotation = torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]], dtype=DTYPE)
    swap = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=DTYPE)
    matrix = torch.diag(torch.tensor([6.0, 0.1], dtype=DTYPE))

    def measure(h: Tensor, sampler: object) -> tuple[float, float]:
        found = universal_measure(
            Quadratic(h), row_mean, zero_batches(2), sampler=sampler, psi=lambda t: t * t, num_directions=3000
        )
        return found.value, found.standard_error

    for transform, sampler, invariant in (
        (rotation, gaussian, True),
        (swap, cube(1.0), True),
        (rotation, cube(1.0), False),
    ):
        (a, a_error), (b, b_error) = measure(matrix, sampler), measure(transform.T @ matrix @ transform, sampler)
        assert (abs(a - b) < 4 * math.hypot(a_error, b_error)) is invariant
