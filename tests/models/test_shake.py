"""The noise of Shake-Shake and ShakeDrop: coefficients forward and backward, the true gradient, evaluation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from samtune.config.model import ModelConfig, PyramidNetConfig, ShakeShakeConfig
from samtune.models import build_model
from samtune.models.shake import ShakeDrop, ShakeShake


def coefficients(module: nn.Module, seed: int = 0, count: int = 4000) -> tuple[Tensor, Tensor]:
    """What the first input of each example is multiplied by, forward and backward, [count] each."""
    torch.manual_seed(seed)
    first = torch.ones(count, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    inputs = (first, torch.zeros_like(first)) if isinstance(module, ShakeShake) else (first,)
    outputs = module(*inputs)
    (gradient,) = torch.autograd.grad(outputs.sum(), first)
    for values in (outputs, gradient):  # one coefficient for each example
        assert torch.equal(values, values[:, :1, :1, :1].expand_as(values))
    return outputs[:, 0, 0, 0].detach(), gradient[:, 0, 0, 0]


@pytest.fixture(params=[ShakeShake(), ShakeDrop(0.4)], ids=["shake_shake", "shake_drop"])
def module(request: pytest.FixtureRequest) -> nn.Module:
    shake: nn.Module = request.param
    shake.true_gradient = False
    return shake.train()


def test_backward_coefficients_are_others_than_forward(module: nn.Module) -> None:
    forward, backward = coefficients(module)
    differ = (forward != backward).double().mean()
    assert abs(differ - (1 if isinstance(module, ShakeShake) else 0.4)) < 0.04


def test_true_gradient_is_that_of_the_forward_coefficients(module: nn.Module) -> None:
    forward, _ = coefficients(module)
    module.true_gradient = True
    true_forward, true_backward = coefficients(module)
    assert torch.equal(true_forward, true_backward)
    # Seeded alike, both modes compute the same: SAM's two passes see the same network.
    torch.testing.assert_close(true_forward, forward, rtol=1e-12, atol=1e-12)


def test_both_modes_consume_the_same_random_numbers(module: nn.Module) -> None:
    coefficients(module)
    after = torch.rand(1)
    module.true_gradient = True
    coefficients(module)
    assert torch.equal(torch.rand(1), after)


def test_noise_comes_from_the_default_generator(module: nn.Module) -> None:
    assert torch.equal(coefficients(module, seed=1)[0], coefficients(module, seed=1)[0])
    assert not torch.equal(coefficients(module, seed=1)[0], coefficients(module, seed=2)[0])


def test_evaluation_uses_the_expectation(module: nn.Module) -> None:
    forward, _ = coefficients(module)
    module.eval()
    expected, gradient = coefficients(module)
    assert len(expected.unique()) == 1
    assert torch.equal(expected, gradient)
    assert abs(forward.mean() - expected[0]) < 0.05


def test_distribution_of_shake_shake() -> None:
    forward, backward = coefficients(ShakeShake())
    for values in (forward, backward):
        assert 0 <= values.min() < 0.01
        assert 0.99 < values.max() < 1
    assert abs(torch.corrcoef(torch.stack([forward, backward]))[0, 1]) < 0.08


def test_branches_of_shake_shake_share_the_whole() -> None:
    torch.manual_seed(0)
    first, second = torch.full((5, 1, 1, 1), 3.0, requires_grad=True), torch.full((5, 1, 1, 1), 3.0, requires_grad=True)
    outputs = ShakeShake()(first, second)
    torch.testing.assert_close(outputs, torch.full((5, 1, 1, 1), 3.0))
    gradients = torch.autograd.grad(outputs.sum(), (first, second))
    torch.testing.assert_close(gradients[0] + gradients[1], torch.ones(5, 1, 1, 1))


def test_distribution_of_shake_drop() -> None:
    forward, backward = coefficients(ShakeDrop(0.4))
    kept = forward == 1
    assert torch.equal(kept, backward == 1)
    assert abs(kept.double().mean() - 0.6) < 0.04
    assert forward[~kept].min() < -0.98  # alpha in [-1, 1]
    assert 0.98 < forward[~kept].max() < 1
    assert 0 <= backward[~kept].min() < 0.02  # beta in [0, 1]
    assert 0.98 < backward[~kept].max() < 1


def test_shake_drop_grows_linearly_with_depth() -> None:
    config = PyramidNetConfig(depth=29, alpha=7, shake_drop=0.45)
    model = build_model(config, num_classes=2, input_shape=(3, 8, 8), seed=0)
    assert [block.shake.probability for block in model.blocks] == pytest.approx([0.05 * k for k in range(1, 10)])


@pytest.mark.parametrize(
    "config", [ShakeShakeConfig(width=4), PyramidNetConfig(depth=20, alpha=6, shake_drop=0.5)], ids=lambda c: c.name
)
def test_true_gradient_of_a_network_is_the_derivative_of_its_loss(config: ModelConfig) -> None:
    """Central differences of the loss under the same noise agree with the gradient only in the true mode."""
    model = build_model(config, num_classes=3, input_shape=(3, 8, 8), seed=0).double()
    generator = torch.manual_seed(5)
    inputs = torch.randn(6, 3, 8, 8, dtype=torch.float64, generator=generator)
    targets = torch.arange(6) % 3
    weight = model.conv.weight
    direction = torch.randn(weight.shape, dtype=torch.float64, generator=generator)

    def loss() -> Tensor:
        torch.manual_seed(9)
        return nn.functional.cross_entropy(model(inputs), targets)

    def slope(true_gradient: bool) -> float:
        for module in model.modules():
            if hasattr(module, "true_gradient"):
                module.true_gradient = true_gradient
        return float((torch.autograd.grad(loss(), weight)[0] * direction).sum())

    with torch.no_grad():
        original = weight.clone()
        losses = []
        for sign in (1, -1):
            weight.copy_(original + sign * 1e-8 * direction)
            losses.append(loss())
        weight.copy_(original)
    expected = float(losses[0] - losses[1]) / 2e-8  # a small step: a longer one crosses kinks of the ReLUs
    assert slope(True) == pytest.approx(expected, rel=1e-4)
    assert slope(False) != pytest.approx(expected, rel=1e-2)
