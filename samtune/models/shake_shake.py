"""Shake-Shake 26 2xWd (Gastaldi, ICLR workshop 2017): residual blocks of two branches, mixed at random."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from samtune.models.initialise import initialise_he
from samtune.models.shake import ShakeShake

_BLOCKS_PER_GROUP = 4  # of 2 layers: 26 with the first and the last


class Branch(nn.Sequential):
    """ReLU-conv3x3-BN-ReLU-conv3x3-BN."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )


class SkipConnection(nn.Module):
    """Changes the number of channels: two halves of 1x1 convolutions, the second of the image moved by one pixel."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.straight = nn.Conv2d(in_channels, channels // 2, 1, bias=False)
        self.moved = nn.Conv2d(in_channels, channels // 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, inputs: Tensor) -> Tensor:
        active = torch.relu(inputs)
        moved = nn.functional.pad(active, (-1, 1, -1, 1))
        halves = [
            self.straight(active[:, :, :: self.stride, :: self.stride]),
            self.moved(moved[:, :, :: self.stride, :: self.stride]),
        ]
        skipped: Tensor = self.bn(torch.cat(halves, dim=1))
        return skipped


class ShakeBlock(nn.Module):
    """Skip connection plus the mixture of two branches."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.first = Branch(in_channels, channels, stride)
        self.second = Branch(in_channels, channels, stride)
        self.shake = ShakeShake()
        self.skip = nn.Identity() if in_channels == channels else SkipConnection(in_channels, channels, stride)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.shake(self.first(inputs), self.second(inputs)) + self.skip(inputs)
        return outputs


class ShakeShakeNet(nn.Module):
    """Three groups of four blocks with W, 2W and 4W channels.

    Args:
        width: W, even.
        num_classes: outputs.
        in_channels: of the images.
    """

    def __init__(self, width: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        blocks: list[nn.Module] = []
        before = 16
        for group, channels in enumerate((width, 2 * width, 4 * width)):
            for block in range(_BLOCKS_PER_GROUP):
                blocks.append(ShakeBlock(before, channels, 2 if group > 0 and block == 0 else 1))
                before = channels
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(before, num_classes)
        initialise_he(self)

    def forward(self, inputs: Tensor) -> Tensor:
        features = torch.relu(self.blocks(self.bn(self.conv(inputs))))
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits
