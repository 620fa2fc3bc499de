"""Rises of the loss around the weights: against what a quadratic's are in closed form, and the invariances."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.problems import DTYPE, Quadratic, examples, network, row_mean, with_spectrum, zero_batches
from torch import nn
from torch.testing import assert_close

from samtune.errors import UsageError
from samtune.sharpness import (
    adaptive_sharpness,
    loss_along,
    loss_surface,
    m_sharpness,
    pac_bayes_bound,
    universal_measure,
    zero_one_loss,
)
from samtune.sharpness.bound import complexity
from samtune.sharpness.landscape import filter_normalised

CROSS_ENTROPY = nn.CrossEntropyLoss()


def test_one_step_is_the_rise_at_sams_perturbation():
    """g = Hw, ε̂ = rho·g/‖g‖: the rise is gᵀε̂ + ½ ε̂ᵀHε̂ = rho‖g‖ + ½ rho² gᵀHg/‖g‖²."""
    matrix = with_spectrum([5.0, 2.0, 1.0, -1.0])
    w = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=DTYPE)
    g, rho = matrix @ w, 0.3
    expected = rho * g.norm() + 0.5 * rho**2 * (g @ matrix @ g) / g.norm() ** 2
    found = m_sharpness(Quadratic(matrix, w), row_mean, zero_batches(4), rho=rho)
    assert found.value == pytest.approx(float(expected))
    assert found.passes == pytest.approx(1 + 1 / 3)
    assert math.isnan(found.standard_error)


def test_many_steps_reach_the_maximum_in_the_ball():
    """The maximum of a convex quadratic on ‖ε‖ = rho has (μI - H)ε = g with μ > λ_max: one equation in μ."""
    values = torch.tensor([5.0, 2.0, 1.0, 0.5], dtype=DTYPE)
    g, rho = torch.tensor([0.3, 1.0, -1.0, 2.0], dtype=DTYPE), 0.7
    low, high = 5.0, 100.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if float((g / (middle - values)).norm()) > rho else (low, middle)
    best = g / (low - values)
    expected = float(g @ best + 0.5 * best @ (values * best))
    model = Quadratic(torch.diag(values), g / values)
    found = [m_sharpness(model, row_mean, zero_batches(4), rho=rho, steps=steps).value for steps in (1, 5, 200)]
    assert found[0] < found[1] < found[2] <= expected + 1e-12
    assert found[2] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_the_ball_may_have_any_norm(p):
    """A linear loss rises by the dual norm of its slope: rho·max|g|, rho·‖g‖₂, rho·Σ|g|."""
    g = torch.tensor([[3.0, -4.0, 0.0]], dtype=DTYPE)
    model = Quadratic(torch.zeros(3, 3, dtype=DTYPE))
    found = m_sharpness(model, row_mean, [(g, torch.zeros(1))], rho=0.5, steps=3, p=p)
    assert found.value == pytest.approx({1.0: 2.0, 2.0: 2.5, math.inf: 3.5}[p])


@pytest.mark.parametrize("batch_sizes", [(6,), (4, 2), (1, 2, 3), (5, 1)])
def test_groups_cross_the_borders_of_batches(batch_sizes):
    """Linear loss, rows g_i: the groups' slopes are means of successive rows, the rises rho times their lengths."""
    rows = torch.arange(18, dtype=DTYPE).reshape(6, 3).cos()
    batches = [(part, torch.zeros(len(part))) for part in rows.split(list(batch_sizes))]
    model = Quadratic(torch.zeros(3, 3, dtype=DTYPE))
    lengths = rows.reshape(3, 2, 3).mean(dim=1).norm(dim=1)
    found = m_sharpness(model, row_mean, batches, m=2, rho=0.1)
    assert found.value == pytest.approx(0.1 * float(lengths.mean()))
    assert found.standard_error == pytest.approx(0.1 * float(lengths.std()) / math.sqrt(3))
    assert found.num_samples == 3
    whole = m_sharpness(model, row_mean, batches, m=6, rho=0.1)
    assert whole.value == pytest.approx(m_sharpness(model, row_mean, batches, rho=0.1).value)


def test_smaller_groups_are_sharper_and_the_weights_come_back():
    model, batches = network(), examples()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    by_m = [m_sharpness(model, CROSS_ENTROPY, batches, m=m).value for m in (1, 4, 12, 24)]
    assert by_m == sorted(by_m, reverse=True)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    few = m_sharpness(model, CROSS_ENTROPY, batches, m=1, target_error=1.0)
    assert few.num_samples == 8
    with pytest.raises(UsageError, match=r"must not exceed the examples.*m is 25"):
        m_sharpness(model, CROSS_ENTROPY, batches, m=25)
    with pytest.raises(UsageError, match="rho is -1"):
        m_sharpness(model, CROSS_ENTROPY, batches, rho=-1)


def test_rescaled_relu_layers_change_plain_but_not_adaptive_sharpness():
    model, batches = network(activation=nn.ReLU), examples()
    plain, adaptive = m_sharpness(model, CROSS_ENTROPY, batches), adaptive_sharpness(model, CROSS_ENTROPY, batches)
    curve = loss_along(model, CROSS_ENTROPY, batches, num_points=5)
    with torch.no_grad():  # the same function: relu(10 x) / 10 = relu(x)
        for parameter in (model[0].weight, model[0].bias):
            parameter *= 10
        model[2].weight /= 10
    rescaled = m_sharpness(model, CROSS_ENTROPY, batches)
    assert abs(rescaled.value - plain.value) > 0.2 * plain.value
    again = adaptive_sharpness(model, CROSS_ENTROPY, batches)
    assert again.value == pytest.approx(adaptive.value, rel=1e-9)
    assert adaptive_sharpness(model, CROSS_ENTROPY, batches, m=6, steps=3).standard_error > 0
    assert loss_along(model, CROSS_ENTROPY, batches, num_points=5).losses[2] == pytest.approx(curve.losses[2])


def test_universal_measures_of_a_quadratic():
    """t = ½ xᵀHx at the minimum, where ∇L = 0: E t = ½ tr H, and Var t = ½ ‖H‖_F² for Gaussian x."""
    spectrum = torch.tensor([3.0, 1.0, -0.5, 0.25], dtype=DTYPE)
    model, batches = Quadratic(with_spectrum(spectrum)), zero_batches(4)
    trace = universal_measure(model, row_mean, batches, num_directions=800)
    assert abs(trace.value - 0.5 * float(spectrum.sum())) < 4 * trace.standard_error
    assert trace.standard_error == pytest.approx(float(spectrum.norm()) / math.sqrt(2 * 800), rel=0.2)
    assert trace.passes == pytest.approx(1 + 800 / 3)
    variance = universal_measure(
        model,
        row_mean,
        batches,
        psi=lambda t: torch.stack([t, t * t]),
        phi=lambda s: s[1] - s[0] ** 2,
        num_directions=800,
    )
    assert abs(variance.value - 0.5 * float(spectrum.square().sum())) < 4 * variance.standard_error
    with pytest.raises(UsageError, match="sampler must be gaussian, sphere, gradient, cube or a function"):
        universal_measure(model, row_mean, batches, sampler="guassian")


def test_sam_is_a_universal_measure():
    model, batches = network(), examples()
    sam = m_sharpness(model, CROSS_ENTROPY, batches, rho=0.05).value
    found = universal_measure(model, CROSS_ENTROPY, batches, sampler="gradient", rho=0.05, num_directions=1)
    assert found.value * 0.05**2 == pytest.approx(sam)


def test_the_bound_is_the_sum_of_its_parts():
    """By hand for k = 4, n = 5, ‖w‖² = 4, σ = 0.5, δ = 0.1: ¼·4·ln(1 + 4/(4·0.25)) = ln 5."""
    by_hand = math.sqrt((math.log(5) + 0.25 + math.log(50) + 2 * math.log(6 * 5 + 3 * 4)) / 4)
    found = complexity(squared_norm=4.0, num_weights=4, num_examples=5, sigma=0.5, delta=0.1)
    assert found == pytest.approx(by_hand)
    model = Quadratic(with_spectrum([2.0, 1.0, 1.0, 0.5]), torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=DTYPE))
    sigma = 0.3 / (2 + math.sqrt(math.log(5)))
    bound = pac_bayes_bound(model, row_mean, zero_batches(4), rho=0.3, delta=0.1, loss_bound=10)
    root = complexity(squared_norm=4.0, num_weights=4, num_examples=5, sigma=sigma, delta=0.1)
    assert bound.complexity == pytest.approx(10 * root)
    largest = m_sharpness(model, row_mean, zero_batches(4), rho=0.3, steps=5).value
    with torch.no_grad():
        largest += float(row_mean(model(torch.zeros(1, 4, dtype=DTYPE)), torch.zeros(1)))
    assert bound.largest_loss == pytest.approx(largest)
    assert bound.value == pytest.approx((1 - 1 / math.sqrt(5)) * largest + 10 / math.sqrt(5) + 10 * root)
    assert bound.is_vacuous
    assert "the loss lies in [0, 10]" in bound.assumptions
    small = pac_bayes_bound(model, row_mean, zero_batches(4), rho=0.3, loss_bound=0.5)
    assert "it does not" in small.assumptions[0]
    with pytest.raises(UsageError, match=r"delta in \(0, 1\) .*delta 1"):
        pac_bayes_bound(model, row_mean, zero_batches(4), delta=1)


def test_the_stated_theorem_is_looser_than_the_line_of_its_proof():
    """Eq. 4 by hand for k = 4, n = 5, ‖w‖² = 4, rho = 0.3, δ = 0.1; the loss bound scales its root."""
    model = Quadratic(with_spectrum([2.0, 1.0, 1.0, 0.5]), torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=DTYPE))
    bound = pac_bayes_bound(model, row_mean, zero_batches(4), rho=0.3, delta=0.1, loss_bound=10)
    inner = 4 * math.log(1 + 4 / 0.09 * (1 + math.sqrt(math.log(5) / 4)) ** 2)
    root = math.sqrt((inner + 4 * math.log(50) + 8 * math.log(6 * 5 + 3 * 4)) / 4)
    assert bound.theorem_2 == pytest.approx(bound.largest_loss + 10 * root)
    assert bound.theorem_2 > bound.value


def test_the_bound_of_the_error_rate_climbs_the_loss():
    """The error rate has no slope; it is read off at the points where the cross entropy leads."""
    model, batches = network(), examples()
    small = pac_bayes_bound(model, CROSS_ENTROPY, batches, rho=1e-6, bounded_loss=zero_one_loss)
    with torch.no_grad():
        wrong = sum(int((model(inputs).argmax(dim=1) != targets).sum()) for inputs, targets in batches)
    assert small.largest_loss == pytest.approx(wrong / 24)
    large = pac_bayes_bound(model, CROSS_ENTROPY, batches, rho=3.0, bounded_loss=zero_one_loss)
    assert wrong / 24 < large.largest_loss <= 1
    assert large.assumptions[0] == "the loss lies in [0, 1]"


def test_directions_are_as_long_as_the_filters():
    weights = [torch.randn(4, 3, 2, 2), torch.randn(4), torch.zeros(2, 5)]
    direction = filter_normalised(weights, torch.Generator().manual_seed(0))
    assert_close(direction[0].flatten(1).norm(dim=1), weights[0].flatten(1).norm(dim=1))
    assert not direction[1].any()
    assert not direction[2].any()


def test_the_line_and_the_plane_of_a_quadratic():
    """On a line through w the loss is a parabola; the middle of line and plane is L(w)."""
    model = network()
    mse, batches = nn.MSELoss(), [(x, torch.zeros(len(x), 3, dtype=DTYPE)) for x, _ in examples()]
    model[1] = nn.Identity()
    model[2].requires_grad_(False)  # linear in what is left
    curve = loss_along(model, mse, batches, radius=2.0, num_points=5)
    third_differences = torch.tensor(curve.losses, dtype=DTYPE).diff(n=3)
    assert_close(third_differences, torch.zeros(2, dtype=DTYPE), atol=1e-12, rtol=0)
    assert curve.positions == (-2.0, -1.0, 0.0, 1.0, 2.0)
    assert curve.passes == pytest.approx(5 / 3)
    at_w = sum(len(x) * float(mse(model(x), t).detach()) for x, t in batches) / 24
    assert curve.losses[2] == pytest.approx(at_w)
    told = []
    surface = loss_surface(model, mse, batches, num_points=3, progress=lambda done, of: told.append((done, of)))
    assert surface.losses[1][1] == pytest.approx(at_w)
    line = loss_along(model, mse, batches, num_points=3)
    assert [row[1] for row in surface.losses] == pytest.approx(list(line.losses))
    assert told[-1] == (9, 9)
