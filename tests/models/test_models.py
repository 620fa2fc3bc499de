"""A contract that every network keeps, and the published parameter counts."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError

from samtune.config.model import (
    CifarResNetConfig,
    DigitsCnnConfig,
    MlpConfig,
    ModelConfig,
    PyramidNetConfig,
    ResNetConfig,
    ShakeShakeConfig,
    TorchvisionConfig,
    WideResNetConfig,
)
from samtune.models import build_model
from samtune.models.shake_shake import SkipConnection

SMALL: list[tuple[ModelConfig, tuple[int, int, int]]] = [
    (DigitsCnnConfig(), (1, 8, 8)),
    (DigitsCnnConfig(width=3), (3, 13, 10)),
    (WideResNetConfig(depth=10, width=1), (3, 32, 32)),
    (WideResNetConfig(depth=16, width=2, dropout=0.3), (1, 28, 28)),
    (WideResNetConfig(depth=10, width=1, norm="none"), (3, 32, 32)),
    (MlpConfig(), (1, 28, 28)),
    (MlpConfig(depth=1), (3, 4, 4)),
    (CifarResNetConfig(depth=8), (3, 32, 32)),
    (CifarResNetConfig(depth=14), (1, 28, 28)),
    (CifarResNetConfig(depth=14, shortcuts=False), (3, 32, 32)),
    (ResNetConfig(depth=18), (3, 16, 16)),
    (ResNetConfig(depth=50), (3, 9, 9)),
    (ShakeShakeConfig(width=8), (3, 32, 32)),
    (PyramidNetConfig(depth=20, alpha=10), (3, 32, 32)),
    (PyramidNetConfig(depth=29, alpha=7, shake_drop=0.5), (1, 28, 28)),
    (TorchvisionConfig(architecture="mobilenet_v3_small"), (3, 48, 48)),
]


def name_of(value: object) -> str:
    """A test's name."""
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return str(getattr(value, "name", value))


def num_parameters(config: ModelConfig, num_classes: int = 10, input_shape: tuple[int, int, int] = (3, 32, 32)) -> int:
    with torch.device("meta"):
        model = build_model(config, num_classes=num_classes, input_shape=input_shape, seed=0)
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("config", "shape"), SMALL, ids=name_of)
class TestEveryModel:
    def test_maps_images_to_logits(self, config: ModelConfig, shape: tuple[int, int, int]) -> None:
        model = build_model(config, num_classes=7, input_shape=shape, seed=0)
        logits = model(torch.randn(5, *shape))
        assert logits.shape == (5, 7)
        assert logits.dtype == torch.float32
        assert logits.isfinite().all()

    def test_every_parameter_has_a_gradient(self, config: ModelConfig, shape: tuple[int, int, int]) -> None:
        model = build_model(config, num_classes=7, input_shape=shape, seed=0)
        model(torch.randn(8, *shape)).logsumexp(1).sum().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name

    def test_initialisation_is_a_function_of_the_seed(self, config: ModelConfig, shape: tuple[int, int, int]) -> None:
        states = []
        for seed, disturbance in ((1, 10), (1, 20), (2, 10)):
            torch.manual_seed(disturbance)
            states.append(build_model(config, num_classes=7, input_shape=shape, seed=seed).state_dict())
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
        assert any(not torch.equal(states[0][key], states[2][key]) for key in states[0])

    def test_caller_keeps_its_random_state(self, config: ModelConfig, shape: tuple[int, int, int]) -> None:
        torch.manual_seed(3)
        expected = torch.rand(4)
        torch.manual_seed(3)
        build_model(config, num_classes=7, input_shape=shape, seed=0)
        assert torch.equal(torch.rand(4), expected)

    def test_evaluation_is_independent_of_the_batch(self, config: ModelConfig, shape: tuple[int, int, int]) -> None:
        model = build_model(config, num_classes=7, input_shape=shape, seed=0).eval()
        inputs = torch.randn(6, *shape)
        torch.testing.assert_close(model(inputs)[2:3], model(inputs[2:3]), rtol=1e-4, atol=1e-5)

    def test_double_precision(self, config: ModelConfig, shape: tuple[int, int, int]) -> None:
        model = build_model(config, num_classes=7, input_shape=shape, seed=0).double()
        assert model(torch.randn(2, *shape, dtype=torch.float64)).dtype == torch.float64

    def test_first_logits_are_of_moderate_size(self, config: ModelConfig, shape: tuple[int, int, int]) -> None:
        model = build_model(config, num_classes=7, input_shape=shape, seed=0)
        smallest = 1e-3 if config.name == "torchvision" else 0.02  # torchvision's own initialisation
        assert smallest < model(torch.randn(64, *shape)).std() < 4


@pytest.mark.parametrize(
    ("config", "millions"),
    [
        # Zagoruyko & Komodakis, table 4 and the authors' repository.
        (WideResNetConfig(depth=28, width=10), 36.5),
        (WideResNetConfig(depth=16, width=8), 11.0),
        (WideResNetConfig(depth=40, width=4), 8.9),
        (WideResNetConfig(depth=40, width=10), 55.8),
        # He et al., table 6.
        (CifarResNetConfig(depth=20), 0.27),
        (CifarResNetConfig(depth=32), 0.46),
        (CifarResNetConfig(depth=44), 0.66),
        (CifarResNetConfig(depth=56), 0.85),
        (CifarResNetConfig(depth=110), 1.7),
        # Gastaldi, table 1.
        (ShakeShakeConfig(width=32), 2.9),
        (ShakeShakeConfig(width=64), 11.7),
        (ShakeShakeConfig(width=96), 26.2),
        # Han et al., table 4.
        (PyramidNetConfig(depth=200, alpha=240), 26.6),
        (PyramidNetConfig(depth=236, alpha=220), 26.8),
        (PyramidNetConfig(depth=272, alpha=200), 26.0),
        # ResNet-18 with a 3x3 first layer for 10 classes: 11.69M of torchvision's, less 513,000 + 9,408 of its head
        # and its 7x7 layer, plus 5,130 + 1,728.
        (ResNetConfig(depth=18), 11.17),
    ],
)
def test_parameter_counts_are_the_published_ones(config: ModelConfig, millions: float) -> None:
    digits = len(str(millions).split(".")[1])
    assert round(num_parameters(config) / 1e6, digits) == millions


def test_wide_resnet_counts_every_layer() -> None:
    # WRN-10-1 on 3x32x32: stem 3*16*9 = 432; groups of one block, (BN a) 2a + 9ab + (BN b) 2b + 9bb, shortcut ab
    # where the width changes; 16->16: 32 + 2304 + 32 + 2304 = 4672; 16->32: 32 + 4608 + 64 + 9216 + 512 = 14432;
    # 32->64: 64 + 18432 + 128 + 36864 + 2048 = 57536; last BN 128; head 64*10 + 10 = 650. Together 77850.
    assert num_parameters(WideResNetConfig(depth=10, width=1)) == 77_850


def test_wide_resnet_halves_the_resolution_twice() -> None:
    model = build_model(WideResNetConfig(depth=10, width=1), num_classes=10, input_shape=(3, 32, 32), seed=0)
    assert model.blocks(model.conv(torch.zeros(1, 3, 32, 32))).shape == (1, 64, 8, 8)


def test_wide_block_by_the_authors_formula() -> None:
    model = build_model(WideResNetConfig(depth=10, width=1), num_classes=10, input_shape=(3, 32, 32), seed=0)
    inputs = torch.randn(2, 16, 8, 8)
    same, wider = model.blocks[0].eval(), model.blocks[1].eval()

    def residual(block: torch.nn.Module, stride: int) -> torch.Tensor:
        conv2d = torch.nn.functional.conv2d
        hidden = conv2d(torch.relu(block.bn1(inputs)), block.conv1.weight, stride=stride, padding=1)
        return conv2d(torch.relu(block.bn2(hidden)), block.conv2.weight, padding=1)

    torch.testing.assert_close(same(inputs), inputs + residual(same, 1))
    shortcut = wider.shortcut(torch.relu(wider.bn1(inputs)))
    torch.testing.assert_close(wider(inputs), shortcut + residual(wider, 2))


def test_wide_resnet_weights_have_the_variance_of_he() -> None:
    model = build_model(WideResNetConfig(depth=10, width=8), num_classes=10, input_shape=(3, 32, 32), seed=0)
    weight = model.blocks[1].conv2.weight  # 256 -> 256 channels, 3x3: variance 2 / (256 * 9)
    assert abs(weight.var() * 256 * 9 / 2 - 1) < 0.02


def test_dropout_is_between_the_convolutions_and_off_in_evaluation() -> None:
    torch.manual_seed(0)
    model = build_model(
        WideResNetConfig(depth=10, width=1, dropout=0.5), num_classes=10, input_shape=(3, 32, 32), seed=0
    )
    inputs = torch.randn(4, 3, 32, 32)
    assert not torch.equal(model(inputs), model(inputs))
    model.eval()
    assert torch.equal(model(inputs), model(inputs))


@pytest.mark.parametrize(
    ("config", "depth", "rule"),
    [
        (WideResNetConfig, 29, r"depth must be 6n \+ 4, for example 28 \(got 29\)"),
        (WideResNetConfig, 4, r"depth must be 6n \+ 4, for example 10 \(got 4\)"),
        (CifarResNetConfig, 34, r"depth must be 6n \+ 2, for example 32 \(got 34\)"),
        (CifarResNetConfig, 2, r"depth must be 6n \+ 2, for example 8 \(got 2\)"),
        (PyramidNetConfig, 270, r"depth must be 9n \+ 2, for example 272 \(got 270\)"),
    ],
)
def test_depth_that_no_network_has(config: type[WideResNetConfig], depth: int, rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        config(depth=depth)


def test_images_too_small_for_the_digits_network() -> None:
    with pytest.raises(ValueError, match="at least 4x4 pixels"):
        build_model(DigitsCnnConfig(), num_classes=2, input_shape=(1, 3, 8), seed=0)


def test_own_networks_do_not_import_torchvision() -> None:
    code = """
import sys
from samtune.models import build_model
from samtune.models.shake_shake import SkipConnection
from samtune.config.model import *
for config in (DigitsCnnConfig(), MlpConfig(), WideResNetConfig(depth=10, width=1), CifarResNetConfig(depth=8),
               ResNetConfig(), ShakeShakeConfig(width=2), PyramidNetConfig(depth=11, shake_drop=0.5)):
    build_model(config, num_classes=10, input_shape=(3, 32, 32), seed=0)
print("torchvision" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "False", run.stderr


def test_mlp_has_the_layers_of_the_paper() -> None:
    # 784*128 + 128, four times 128*128 + 128, 128*10 + 10
    assert num_parameters(MlpConfig(), input_shape=(1, 28, 28)) == 100_480 + 4 * 16_512 + 1_290


def test_wide_resnet_without_batch_norm() -> None:
    """Foret et al., section 4.2. The logits of the figure's 40 layers are as moderate as with BatchNorm."""
    config = WideResNetConfig(depth=40, width=1, norm="none")
    model = build_model(config, num_classes=10, input_shape=(3, 32, 32), seed=0)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert 0.1 < float(model(images).std().detach()) < 10
    # He: variance 2 / (9 · 16) of a weight; and 1/18 of it at the end of each of the 18 blocks
    assert float(model.blocks[1].conv2.weight.std().detach()) == pytest.approx((2 / 144 / 18) ** 0.5, rel=0.05)


def test_without_shortcuts_a_block_is_its_residual() -> None:
    model = build_model(
        CifarResNetConfig(depth=56, shortcuts=False), num_classes=10, input_shape=(3, 32, 32), seed=0
    ).eval()
    block = model.blocks[0]
    features = torch.randn(2, 16, 8, 8)
    assert torch.equal(block(features), torch.relu(block.residual(features)))
    assert num_parameters(CifarResNetConfig(depth=56, shortcuts=False)) == num_parameters(CifarResNetConfig(depth=56))


def test_shortcuts_of_cifar_resnets_have_no_parameters() -> None:
    model = build_model(CifarResNetConfig(depth=8), num_classes=10, input_shape=(3, 32, 32), seed=0)
    assert sum(parameter.numel() for block in model.blocks for parameter in block.shortcut.parameters()) == 0
    inputs = torch.randn(2, 16, 32, 32)
    shortcut = model.blocks[1].shortcut(inputs)
    assert shortcut.shape == (2, 32, 16, 16)
    assert torch.equal(shortcut[:, :16], inputs[:, :, ::2, ::2])
    assert (shortcut[:, 16:] == 0).all()


@pytest.mark.parametrize(
    "config",
    [
        WideResNetConfig(depth=10, width=1),
        CifarResNetConfig(depth=8),
        ResNetConfig(),
        ShakeShakeConfig(width=4),
        PyramidNetConfig(depth=11, alpha=3),
    ],
    ids=lambda config: config.name,
)
def test_last_layer_sees_means_of_rectified_features(config: ModelConfig) -> None:
    model = build_model(config, num_classes=10, input_shape=(3, 16, 16), seed=0)
    seen: list[torch.Tensor] = []
    model.head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(torch.randn(4, 3, 16, 16))
    assert seen[0].ndim == 2
    assert (seen[0] >= 0).all()


def test_second_half_of_a_shake_shake_shortcut_sees_the_image_moved_by_a_pixel() -> None:
    torch.manual_seed(0)
    skip = SkipConnection(2, 4, stride=2).eval()  # a fresh BatchNorm in evaluation divides by sqrt(1 + 1e-5)
    inputs = torch.randn(1, 2, 6, 6)
    active = inputs.clamp(min=0)
    straight = torch.einsum("oi,nihw->nohw", skip.straight.weight[:, :, 0, 0], active[:, :, 0::2, 0::2])
    moved = torch.einsum("oi,nihw->nohw", skip.moved.weight[:, :, 0, 0], active[:, :, 1::2, 1::2])
    torch.testing.assert_close(skip(inputs), torch.cat([straight, moved], dim=1) / (1 + 1e-5) ** 0.5)
