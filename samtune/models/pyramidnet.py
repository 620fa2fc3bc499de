"""PyramidNet with bottleneck blocks (Han, Kim & Kim, CVPR 2017), with or without ShakeDrop."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from samtune.models.initialise import initialise_he
from samtune.models.shake import ShakeDrop

_EXPANSION = 4


class PyramidBlock(nn.Module):
    """BN-conv1x1-BN-ReLU-conv3x3-BN-ReLU-conv1x1-BN; new channels of the shortcut are zero.

    Args:
        in_channels: of the input.
        channels: of the bottleneck; the output has four times as many.
        stride: 1 or 2.
        shake_drop: probability of disturbing the residual.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, shake_drop: float) -> None:
        super().__init__()
        out_channels = channels * _EXPANSION
        self.residual = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.Conv2d(in_channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.shake = ShakeDrop(shake_drop) if shake_drop else nn.Identity()
        self.downsample = nn.Identity() if stride == 1 else nn.AvgPool2d(2, ceil_mode=True)
        self.new_channels = out_channels - in_channels

    def forward(self, inputs: Tensor) -> Tensor:
        residual: Tensor = self.shake(self.residual(inputs))
        shortcut = nn.functional.pad(self.downsample(inputs), (0, 0, 0, 0, 0, self.new_channels))
        return residual + shortcut


class PyramidNet(nn.Module):
    """Three groups of (depth - 2) / 9 blocks; block k of K has a bottleneck of 16 + floor(alpha*k/K) channels.

    Args:
        depth: 9n + 2.
        alpha: the channels added in all.
        shake_drop: probability of the last block; that of block k is k/K of it.
        num_classes: outputs.
        in_channels: of the images.
    """

    def __init__(self, depth: int, alpha: int, shake_drop: float, num_classes: int, in_channels: int) -> None:
        super().__init__()
        blocks_per_group, remainder = divmod(depth - 2, 9)
        assert remainder == 0
        num_blocks = 3 * blocks_per_group
        self.conv = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        blocks: list[nn.Module] = []
        before = 16
        for number in range(1, num_blocks + 1):
            channels = 16 + alpha * number // num_blocks
            stride = 2 if number > 1 and (number - 1) % blocks_per_group == 0 else 1
            blocks.append(PyramidBlock(before, channels, stride, shake_drop * number / num_blocks))
            before = channels * _EXPANSION
        self.blocks = nn.Sequential(*blocks)
        self.last_bn = nn.BatchNorm2d(before)
        self.head = nn.Linear(before, num_classes)
        initialise_he(self)

    def forward(self, inputs: Tensor) -> Tensor:
        features = torch.relu(self.last_bn(self.blocks(self.bn(self.conv(inputs)))))
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits
