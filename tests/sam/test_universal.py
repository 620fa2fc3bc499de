"""The universal (φ, ψ, μ) class: its formula, its members' closed forms on quadratics, SAM as a member."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import sam_functions
from helpers.reference import mean_over_groups, update_direction
from torch import nn
from torch.testing import assert_close

from samtune.config.method import (
    DetSAMConfig,
    FrobSAMConfig,
    SAMConfig,
    TraceSAMConfig,
    UniversalConfig,
)
from samtune.config.universal_methods import DirectionsConfig
from samtune.sam import TrainStep


def fixed_directions(parameters, gradient, generator):
    """Two directions that depend on the group through its gradient: x = sin(1000 g) and x = cos(1000 g), in turn."""
    functions = [torch.sin, torch.cos]
    fixed_directions.calls = getattr(fixed_directions, "calls", 0) + 1
    return [functions[fixed_directions.calls % 2](1000 * g) for g in gradient]


@pytest.mark.parametrize("m", [4, 16])
def test_sam_is_a_member(m):
    """φ = ψ = identity, x = g/‖g‖₂, λ = 1."""
    method = UniversalConfig(rho=0.3, lam=1.0, directions="gradient", m=m)
    assert_close(update_direction(method), update_direction(SAMConfig(rho=0.3, m=m)), rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("m", [8, 16])
def test_gradient_of_the_objective_with_two_outputs(m):
    """Autograd through L(w) + λ rho² φ(mean_i ψ((L(w + rho x_i) - L(w)) / rho²)), φ: R² -> R, ψ: R -> R²."""
    rho, lam = 0.3, 0.7

    def share(reference, w):
        g = reference.gradient(w)
        w = w.requires_grad_()
        base = reference.loss(w)
        values = [
            sam_functions.psi((reference.loss(w + rho * x(1000 * g)) - base) / rho**2) for x in (torch.cos, torch.sin)
        ]
        objective = base + lam * rho**2 * sam_functions.phi(torch.stack(values).mean(dim=0))
        return torch.autograd.grad(objective, w)[0]

    fixed_directions.calls = 0
    method = UniversalConfig(
        rho=rho,
        lam=lam,
        num_directions=2,
        phi="helpers.sam_functions:phi",
        psi="helpers.sam_functions:psi",
        directions="test_universal:fixed_directions",
        m=m,
    )
    import test_universal  # the module that the import path names, whatever pytest calls this one

    test_universal.fixed_directions.calls = 0
    assert_close(update_direction(method), mean_over_groups(m, share), rtol=1e-10, atol=1e-13)


def test_gradient_of_the_objective_with_a_measure_for_each_output():
    """Definition 1, eqs 3 to 6: ψ_1 on the cosine directions, ψ_2 on the sines, autograd through the objective."""
    rho, lam = 0.3, 0.7

    def share(reference, w):
        g = reference.gradient(w)
        w = w.requires_grad_()
        base = reference.loss(w)
        rises = [(reference.loss(w + rho * x(1000 * g)) - base) / rho**2 for x in (torch.cos, torch.sin)]
        values = [sam_functions.psi(rise)[output] for output, rise in enumerate(rises)]
        objective = base + lam * rho**2 * sam_functions.phi(torch.stack(values))
        return torch.autograd.grad(objective, w)[0]

    method = UniversalConfig(
        rho=rho,
        lam=lam,
        phi="helpers.sam_functions:phi",
        psi="helpers.sam_functions:psi",
        directions=["helpers.sam_functions:cosines", "helpers.sam_functions:sines"],
        m=8,
    )
    assert method.passes_per_step == 3
    assert_close(update_direction(method), mean_over_groups(8, share), rtol=1e-10, atol=1e-13)


def test_several_measures_with_the_identity_add_up():
    """φ = sum, ψ = identity in each output: the mean of the losses' rises along both, added."""
    both = UniversalConfig(rho=0.3, lam=1.0, directions=["gradient", "gradient"], m=8)
    twice = UniversalConfig(rho=0.3, lam=2.0, directions="gradient", m=8)
    assert_close(update_direction(both), update_direction(twice), rtol=1e-11, atol=1e-14)


def test_an_import_path_that_leads_nowhere_is_refused():
    with pytest.raises(ValueError, match="importable package"):
        update_direction(UniversalConfig(phi="no_such_module:phi"))


# -- closed forms ------------------------------------------------------------------------------------------------------


class Toy(nn.Module):
    """A cubic L(w) = w₀w₁² + w₁w₂² + ½‖w‖²: its Hessian depends on w, and the means below are exact for any rho."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))

    def forward(self, inputs):
        return self.loss(self.w).expand(len(inputs))

    @staticmethod
    def loss(w):
        return w[0] * w[1] ** 2 + w[1] * w[2] ** 2 + 0.5 * (w * w).sum()


W = [0.7, 0.4, -0.5]


def directions_of_many_steps(method: DirectionsConfig, num_steps: int, group_size: int = 4) -> torch.Tensor:
    """The regulariser's gradient, sampled: [num_steps, 3]. Each step averages its m-groups' directions."""
    model = Toy(W)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    step = TrainStep(
        model,
        lambda outputs, targets: outputs.mean(),
        optimizer,
        method.model_copy(update={"m": 1}),
        batch_size=group_size,
    )
    w = model.w.detach().clone()
    plain = torch.autograd.grad(Toy.loss(v := w.clone().requires_grad_()), v)[0]
    samples = []
    for _ in range(num_steps):
        step(torch.zeros(group_size, 1), torch.zeros(group_size))
        samples.append(w - model.w.detach() - plain)
        with torch.no_grad():
            model.w.copy_(w)
    return torch.stack(samples)


def derivative(function):
    w = torch.tensor(W, dtype=torch.float64, requires_grad=True)

    def hessian(w):
        g = torch.autograd.grad(Toy.loss(w), w, create_graph=True)[0]
        return torch.stack([torch.autograd.grad(gi, w, create_graph=True)[0] for gi in g])

    return torch.autograd.grad(function(hessian(w)), w)[0]


def check_mean(samples, expected):
    """The mean lies within 4.5 standard errors of the closed form (false alarm: 1 in 50,000 per number, and the seed is
    fixed), and the standard error is small enough to tell it from zero."""
    mean, error = samples.mean(dim=0), samples.std(dim=0) / math.sqrt(len(samples))
    assert ((mean - expected).abs() < 4.5 * error).all(), (mean, expected, error)
    assert error.norm() < 0.15 * expected.norm()


@pytest.mark.parametrize("directions", ["gaussian", "sphere"])
def test_trace_sam_descends_half_the_trace(directions):
    """E[t] = ½ tr H for a cubic, since odd moments of x vanish; tr H = 3 + 2w₀ + 2w₁, half its gradient (1, 1, 0)."""
    rho = 2.0
    method = TraceSAMConfig(rho=rho, lam=0.3, num_directions=16, directions=directions)
    samples = directions_of_many_steps(method, 50) / (0.3 * rho**2)
    expected = 0.5 * derivative(torch.trace)
    assert_close(expected, torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64))
    check_mean(samples, expected)


def test_frob_sam_descends_half_the_variance_of_the_loss():
    """For a cubic with C its third derivative: Var(t) = ‖∇L‖²/rho² + ½‖H‖_F² + ∇Lᵀ∇(tr H) + rho²/36·Var(C[x, x, x]).

    The last is constant in w, so half the gradient is ¼∇‖H‖_F² + H∇L/rho² + ½H∇(tr H).
    """
    rho = 1.0
    samples = directions_of_many_steps(FrobSAMConfig(rho=rho, lam=0.3, num_directions=16), 80) / (0.3 * rho**2)
    w = torch.tensor(W, dtype=torch.float64)
    hessian, gradient = torch.autograd.functional.hessian(Toy.loss, w), torch.func.grad(Toy.loss)(w)
    frobenius = derivative(lambda h: (h * h).sum())
    expected = 0.25 * frobenius + hessian @ gradient / rho**2 + 0.5 * hessian @ derivative(torch.trace)
    check_mean(samples, expected)
    # the share of the Frobenius norm is large enough to be missed
    assert (0.25 * frobenius).norm() > 0.3 * expected.norm()


def test_frob_sam_is_the_covariance_of_loss_and_gradient():
    """`∇L + (λ/rho²)·Cov_n(L(w + rho x), ∇L(w + rho x))`, unbiased, with the directions that the rule drew."""
    seen = []
    model = Toy(W)
    forward = model.forward

    def spy(inputs):
        seen.append(model.w.detach().clone())
        return forward(inputs)

    model.forward = spy
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    method = FrobSAMConfig(rho=0.2, lam=0.7, num_directions=4)
    step = TrainStep(model, lambda outputs, targets: outputs.mean(), optimizer, method, batch_size=2)
    step(torch.zeros(2, 1), torch.zeros(2))
    w, *points = seen
    assert len(points) == 4
    losses = torch.stack([Toy.loss(point) for point in points])
    gradients = torch.stack([torch.func.grad(Toy.loss)(point) for point in points])
    covariance = ((losses - losses.mean())[:, None] * (gradients - gradients.mean(dim=0))).sum(dim=0) / 3
    expected = torch.func.grad(Toy.loss)(w) + 0.7 / 0.2**2 * covariance
    assert_close(w - model.w.detach(), expected, rtol=1e-10, atol=1e-12)


def test_det_sam_descends_the_determinant_of_a_wide_quadratic():
    """For L = ½ wᵀHw at w = 0 and a wide cube, (∫ e^(-xᵀHx/4) dx)⁻² is proportional to det H.

    d/dh_i of its logarithm is then 1/h_i. Here: H = diag(h), and the derivative by h is taken of what the rule's own φ
    and ψ make of t(x) = ½ Σ h_i x_i², with the mean over a fine grid.
    """
    from samtune.sam.rules.universal import DetRule

    rule = DetRule([torch.zeros(2)], 0, half_width=30.0)
    h = torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True)
    grid = torch.linspace(-30, 30, 4001, dtype=torch.float64)
    value = rule.phi(torch.stack([rule.psi(0.5 * hi * grid**2).mean() for hi in h]).prod().reshape(1))
    slope = torch.autograd.grad(torch.log(value), h)[0]
    assert_close(slope, 1.0 / h.detach(), rtol=1e-6, atol=0)


def test_det_sam_directions_fill_the_cube_and_the_gradient_is_the_objectives():
    """Autograd through L + λ rho² φ(ψ(t)) at the direction that the rule drew."""
    seen = []
    model = Toy(W)
    forward = model.forward

    def spy(inputs):
        seen.append(model.w.detach().clone())
        return forward(inputs)

    model.forward = spy
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    step = TrainStep(
        model,
        lambda outputs, targets: outputs.mean(),
        optimizer,
        DetSAMConfig(rho=1.0, lam=0.5, half_width=0.3),
        batch_size=1,
    )
    step(torch.zeros(1, 1), torch.zeros(1))
    w, point = seen
    x = point - w
    assert (x.abs() <= 0.3).all()
    assert (x.abs() > 0.01).any()
    v = w.clone().requires_grad_()
    t = Toy.loss(v + x) - Toy.loss(v)
    objective = Toy.loss(v) + 0.5 * torch.exp(-t / 2) ** -2
    assert_close(w - model.w.detach(), torch.autograd.grad(objective, v)[0], rtol=1e-10, atol=1e-12)


def test_directions_have_unit_covariance():
    from samtune.sam.rules.universal import SAMPLERS

    parameters = [torch.zeros(2, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)]
    for name in ("gaussian", "sphere"):
        generator = torch.Generator().manual_seed(0)
        x = torch.stack([torch.cat(SAMPLERS[name](parameters, parameters, generator)) for _ in range(20_000)])
        assert_close(x.T @ x / len(x), torch.eye(3, dtype=torch.float64), rtol=0, atol=0.05)
        if name == "sphere":
            assert_close(x.norm(dim=1), torch.full((len(x),), math.sqrt(3), dtype=torch.float64))


def test_directions_are_keyed_by_seed_step_and_group():
    def direction(seed, num_steps=1):
        return update_direction(TraceSAMConfig(rho=0.5, lam=1.0, m=8), seed=seed, num_steps=num_steps)

    assert torch.equal(direction(1), direction(1))
    assert not torch.equal(direction(1), direction(2))
