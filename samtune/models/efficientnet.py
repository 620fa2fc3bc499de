"""EfficientNet-L2, which torchvision does not have: its EfficientNet by the compound scaling rule."""

from __future__ import annotations

from functools import partial

from torch import nn

WIDTH, DEPTH, DROPOUT = 4.3, 5.3, 0.5
"""Multipliers of B0's channels and layers, and the dropout before the last layer, of the released `efficientnet-l2`
(Xie et al., Noisy Student, CVPR 2020; tensorflow/tpu, and timm's port of its weights). B7 has 2.0, 3.1, 0.5."""

_B0 = (  # expansion, kernel, stride, input channels, output channels, layers: Tan & Le (ICML 2019), table 1
    (1, 3, 1, 32, 16, 1),
    (6, 3, 2, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
)


def efficientnet_l2(num_classes: int) -> nn.Module:
    """480 million parameters with 1,000 classes; for images of 475 or 800 pixels. Names of weights as torchvision's."""
    return scaled_efficientnet(WIDTH, DEPTH, DROPOUT, num_classes)


def scaled_efficientnet(width: float, depth: float, dropout: float, num_classes: int) -> nn.Module:
    """B0 with its channels and layers multiplied; the settings of BatchNorm are those of the large ones (B5 to B7)."""
    from torchvision.models.efficientnet import EfficientNet, MBConvConfig  # 4 s of import

    stages = [MBConvConfig(*stage, width_mult=width, depth_mult=depth) for stage in _B0]
    norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.01)
    model: nn.Module = EfficientNet(stages, dropout, num_classes=num_classes, norm_layer=norm)
    return model
