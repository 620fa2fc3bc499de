"""Hessian products, eigenvalues, density, trace and Frobenius norm against Hessians that are known in full."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.problems import DTYPE, Quadratic, examples, full_hessian, network, row_mean, with_spectrum, zero_batches
from torch import nn
from torch.testing import assert_close

from samtune.errors import UsageError
from samtune.sharpness import (
    MeanLoss,
    frobenius_squared,
    lambda_max,
    spectral_density,
    top_eigenvalues,
    trace,
    trace_and_frobenius_squared,
)
from samtune.sharpness.lanczos import lanczos

CROSS_ENTROPY = nn.CrossEntropyLoss()


def test_products_are_those_of_the_full_hessian():
    model, batches = network(), examples()
    loss = MeanLoss(model, CROSS_ENTROPY, batches)
    vectors = torch.randn(3, loss.num_weights, dtype=DTYPE)
    with loss.fixed():
        products = loss.hessian_products(vectors)
    assert_close(products, vectors @ full_hessian(model, batches), rtol=1e-10, atol=1e-12)
    assert loss.passes == 1 + 2 * 3


def test_products_of_a_single_batch_share_its_forward():
    model, forwards = network(), []
    model.register_forward_hook(lambda *_: forwards.append(1))
    loss = MeanLoss(model, CROSS_ENTROPY, examples(batch_size=24))
    vectors = torch.randn(4, loss.num_weights, dtype=DTYPE)
    expected = vectors @ full_hessian(model, examples())
    forwards.clear()
    with loss.fixed():
        for vector, product in zip(vectors, expected, strict=True):
            assert_close(loss.hessian_products(vector[None])[0], product, rtol=1e-10, atol=1e-12)
    assert len(forwards) == 2  # one more to try second derivatives
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 0.5
    moved = vectors @ full_hessian(model, examples())
    with loss.fixed():  # nothing is kept from before
        assert_close(loss.hessian_products(vectors), moved, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("room", "num_forwards"), [(2**30, 4), (0, 4 * 3)], ids=["kept", "anew"])
def test_products_of_several_batches_share_their_forwards_where_there_is_room(
    monkeypatch: pytest.MonkeyPatch, room: int, num_forwards: int
) -> None:
    monkeypatch.setattr("samtune.sharpness.loss.KEPT_BYTES", room)
    model, forwards = network(), []
    model.register_forward_hook(lambda *_: forwards.append(1))
    batches = examples(batch_size=7)
    assert len(batches) == 4
    loss = MeanLoss(model, CROSS_ENTROPY, batches)
    vectors = torch.randn(3, loss.num_weights, dtype=DTYPE)
    expected = vectors @ full_hessian(model, batches)
    forwards.clear()
    with loss.fixed():
        for vector, product in zip(vectors, expected, strict=True):
            assert_close(loss.hessian_products(vector[None])[0], product, rtol=1e-10, atol=1e-12)
    assert len(forwards) == 1 + num_forwards  # one to try second derivatives


def test_gradients_and_weights_stay_as_they_were():
    model, batches = network(norm=True), examples()
    model.train()
    model[1].eval()
    nn.functional.mse_loss(model(batches[0][0]), torch.zeros(7, 3, dtype=DTYPE)).backward()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    top_eigenvalues(model, CROSS_ENTROPY, batches, k=2)
    assert [module.training for module in model] == [True, False, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))


def test_batch_norm_uses_its_running_statistics():
    model, batches = network(norm=True), examples()
    for inputs, _ in batches:
        model(inputs)
    model.train()
    eigenvalue = lambda_max(model, CROSS_ENTROPY, batches, tolerance=1e-9)
    model.eval()
    assert eigenvalue.value == pytest.approx(float(torch.linalg.eigvalsh(full_hessian(model, batches))[-1]), rel=1e-8)


@pytest.mark.parametrize(
    "spectrum",
    [
        [10.0, 7.0, 6.9, 1.0, 0.5, 0.1, 0.0, -3.0],
        [-1.0, -2.0, -3.0, -4.0, -5.0, -20.0],
        [100.0, *(0.01 * i for i in range(60)), -50.0],
    ],
)
def test_top_eigenvalues_of_a_quadratic(spectrum):
    matrix = with_spectrum(spectrum)
    top = top_eigenvalues(Quadratic(matrix), row_mean, zero_batches(len(spectrum)), k=3, tolerance=1e-8)
    expected = sorted(spectrum, reverse=True)[:3]
    assert top.values == pytest.approx(expected, rel=1e-7, abs=1e-9)
    assert all(
        abs(v - e) <= error + 1e-9 for v, e, error in zip(top.values, expected, top.standard_errors, strict=True)
    )
    assert top.ratio == pytest.approx(expected[0] / expected[2])


def test_top_eigenvalues_of_a_network():
    model, batches = network(), examples()
    expected = torch.linalg.eigvalsh(full_hessian(model, batches)).flip(0)
    top = top_eigenvalues(model, CROSS_ENTROPY, batches, k=5, tolerance=1e-8)
    assert top.values == pytest.approx(expected[:5].tolist(), rel=1e-7)
    first = lambda_max(model, CROSS_ENTROPY, batches, tolerance=1e-8)
    assert first.value == pytest.approx(float(expected[0]), rel=1e-7)
    assert first.num_samples <= top.num_steps
    assert first.passes == 3 * first.num_samples


def test_an_unfinished_answer_says_how_wrong_it_is():
    spectrum = torch.linspace(0, 1, 200, dtype=DTYPE)
    rough = lambda_max(Quadratic(with_spectrum(spectrum)), row_mean, zero_batches(200), max_steps=8, tolerance=1e-9)
    assert 1e-6 < 1.0 - rough.value <= rough.standard_error
    seen = []
    stopped = lambda_max(
        Quadratic(with_spectrum(spectrum)),
        row_mean,
        zero_batches(200),
        progress=lambda answer: seen.append(answer) or len(seen) == 4,
    )
    assert stopped == seen[-1]
    assert stopped.num_samples == 4


@pytest.mark.parametrize("copies", [1, 4])
def test_lanczos_finds_the_whole_spectrum_of_random_matrices(copies):
    """As many steps as dimensions: all eigenvalues, once each, also those that a Krylov space alone does not reach."""
    distinct = torch.randn(30, dtype=DTYPE, generator=torch.Generator().manual_seed(3)) ** 3
    spectrum = distinct.repeat(copies).sort().values
    matrix = with_spectrum(spectrum, seed=4)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(2, len(spectrum), dtype=DTYPE, generator=generator)
    *_, ritz = lanczos(lambda v: v @ matrix, start, 10_000, generator=generator)
    for values, weights in zip(ritz.values, ritz.weights, strict=True):
        assert_close(values, spectrum, rtol=1e-8, atol=1e-9)
        assert float(weights.sum()) == pytest.approx(1)


def test_no_ghosts_in_float32():
    """Without re-orthogonalisation the largest eigenvalue appears again and again."""
    spectrum = torch.cat([torch.tensor([1000.0, 500.0]), torch.rand(200)])
    matrix = with_spectrum(spectrum).float()
    generator = torch.Generator().manual_seed(0)
    *_, ritz = lanczos(lambda v: v @ matrix, torch.randn(1, 202, generator=generator), 60, generator=generator)
    assert int((ritz.values > 10).sum()) == 2


def test_density_integrates_to_one_with_the_moments_of_the_hessian():
    model, batches = network(), examples()
    full = full_hessian(model, batches)
    d = len(full)
    density = spectral_density(model, CROSS_ENTROPY, batches, num_probes=30, steps=d, together=6)
    span = float(density.nodes.max() - density.nodes.min())
    grid = torch.linspace(float(density.nodes.min()) - span, float(density.nodes.max()) + span, 2_001)
    values, errors = density.at(grid)
    assert float(torch.trapezoid(values, grid.double())) == pytest.approx(1, abs=1e-6)
    assert errors.shape == grid.shape
    expected = (float(full.trace()) / d, float(full.square().sum()) / d)
    for power, value in enumerate(expected, start=1):
        moment = density.moment(power)
        assert abs(moment.value - value) < 4 * moment.standard_error
        assert moment.standard_error < 0.25 * value
    mean = float(torch.trapezoid(values * grid.double(), grid.double()))
    assert mean == pytest.approx(density.moment(1).value, abs=1e-6)


def test_density_of_one_probe_is_exact_where_the_probes_do_not_matter():
    """H = 3·I: every probe sees the whole spectrum."""
    density = spectral_density(
        Quadratic(with_spectrum([3.0] * 9)), row_mean, zero_batches(9), num_probes=2, steps=3, together=1
    )
    assert density.moment(1).value == pytest.approx(3)
    assert density.moment(2).value == pytest.approx(9)


def test_quantiles_of_a_known_spectrum():
    """H = diag(1, 2, …, 10), all Lanczos steps: a tenth of the eigenvalues at each."""
    matrix = torch.diag(torch.arange(1, 11, dtype=DTYPE))
    density = spectral_density(Quadratic(matrix), row_mean, zero_batches(10), num_probes=4, steps=10, together=2)
    assert [round(density.quantile(share), 6) for share in (0.05, 0.1, 0.5, 0.95, 1.0)] == [1, 1, 5, 10, 10]


def test_trace_and_frobenius_of_a_diagonal_hessian_are_exact():
    """With Rademacher probes xᵀHx = Σ H_ii and ‖Hx‖² = Σ H_ii², whatever x is."""
    matrix = torch.diag(torch.tensor([4.0, 1.0, -2.0, 0.5], dtype=DTYPE))
    arguments = (Quadratic(matrix), row_mean, zero_batches(4))
    assert trace(*arguments, max_probes=3).value == pytest.approx(3.5)
    assert frobenius_squared(*arguments, max_probes=3).value == pytest.approx(16 + 1 + 4 + 0.25)
    assert trace(*arguments, max_probes=3).standard_error == pytest.approx(0, abs=1e-12)


def test_trace_and_frobenius_of_a_network_lie_within_their_errors():
    model, batches = network(), examples()
    full = full_hessian(model, batches)
    found = trace_and_frobenius_squared(model, CROSS_ENTROPY, batches, max_probes=400)
    for estimate, expected in zip(found, (full.trace(), full.square().sum()), strict=True):
        assert abs(estimate.value - float(expected)) < 4 * estimate.standard_error
        assert 0 < estimate.standard_error < 0.15 * float(expected)
        assert estimate.num_samples == 400
        assert estimate.passes == 100 * (1 + 2 * 4)


def test_the_standard_error_is_the_spread_of_many_answers():
    spectrum = torch.linspace(-1, 5, 30, dtype=DTYPE)
    model, batches = Quadratic(with_spectrum(spectrum)), zero_batches(30)
    answers = [trace(model, row_mean, batches, max_probes=20, seed=seed) for seed in range(60)]
    spread = torch.tensor([answer.value for answer in answers]).std()
    said = math.sqrt(sum(answer.standard_error**2 for answer in answers) / len(answers))
    assert float(spread) == pytest.approx(said, rel=0.35)
    mean = sum(answer.value for answer in answers) / len(answers)
    assert mean == pytest.approx(60.0, abs=4 * said / math.sqrt(60))


def test_deflation_takes_a_hessian_of_low_rank_exactly():
    spectrum = [100.0, 50.0, -20.0] + [0.0] * 40
    model, batches = Quadratic(with_spectrum(spectrum)), zero_batches(43)
    exact = trace(model, row_mean, batches, max_probes=8, deflate=3)
    assert exact.value == pytest.approx(130, rel=1e-9)
    assert exact.standard_error < 1e-8
    assert trace(model, row_mean, batches, max_probes=8).standard_error > 1
    assert exact.passes == 2 * (1 + 2 * 3) + 2 * (1 + 2 * 4)


def test_estimates_stop_at_the_error_asked_for_and_when_told():
    model, batches = network(), examples()
    full = trace(model, CROSS_ENTROPY, batches, max_probes=200)
    asked = 2.5 * full.standard_error
    short = trace(model, CROSS_ENTROPY, batches, max_probes=200, target_error=asked)
    assert 8 <= short.num_samples < 120
    assert short.standard_error <= asked
    seen = []
    told = trace(model, CROSS_ENTROPY, batches, progress=lambda answer: seen.append(answer) or len(seen) == 2)
    assert told == seen[1]
    assert told.num_samples == 8


def test_what_cannot_be_asked_for():
    model, batches = network(), examples()
    with pytest.raises(UsageError, match=r"re-iterable.*got a list_iterator"):
        lambda_max(model, CROSS_ENTROPY, iter(batches))
    with pytest.raises(UsageError, match=r"k must lie between 1 .* \(k is 60, max_steps 100, weights 51\)"):
        top_eigenvalues(model, CROSS_ENTROPY, batches, k=60)
    with pytest.raises(UsageError, match="holds no example"):
        lambda_max(model, CROSS_ENTROPY, [])
    with pytest.raises(UsageError, match=r"of one dtype on one device.*none"):
        lambda_max(model.requires_grad_(False), CROSS_ENTROPY, batches)
