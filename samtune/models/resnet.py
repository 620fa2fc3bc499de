"""ResNet (He et al., CVPR 2016) for small images: the thin networks of section 4.2, and ResNet-18 and its kin."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from samtune.models.initialise import initialise_he

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class ZeroPadShortcut(nn.Module):
    """Takes every `stride`-th pixel and adds channels of zeros: no parameters (the paper's option A)."""

    def __init__(self, new_channels: int, stride: int) -> None:
        super().__init__()
        self.new_channels, self.stride = new_channels, stride

    def forward(self, inputs: Tensor) -> Tensor:
        thinned = inputs[:, :, :: self.stride, :: self.stride]
        return nn.functional.pad(thinned, (0, 0, 0, 0, 0, self.new_channels))


class NoShortcut(nn.Module):
    """Adds nothing to the residual: a plain network of the same layers."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.new_zeros(())


def projection(in_channels: int, channels: int, stride: int) -> nn.Module:
    """A 1x1 convolution and BatchNorm (option B)."""
    convolution = nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels))


class ResidualBlock(nn.Module):
    """ReLU of the residual plus the shortcut. `expansion`: output channels for each of the inner layers' channels."""

    expansion: ClassVar[int]

    def __init__(self, residual: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.residual, self.shortcut = residual, shortcut

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.relu(self.residual(inputs) + self.shortcut(inputs))


class BasicBlock(ResidualBlock):
    """conv3x3-BN-ReLU-conv3x3-BN."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut: nn.Module) -> None:
        residual = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        super().__init__(residual, shortcut)


class Bottleneck(ResidualBlock):
    """conv1x1-BN-ReLU-conv3x3-BN-ReLU-conv1x1-BN with four times the channels."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut: nn.Module) -> None:
        residual = nn.Sequential(
            nn.Conv2d(in_channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, 4 * channels, 1, bias=False),
            nn.BatchNorm2d(4 * channels),
        )
        super().__init__(residual, shortcut)


class SmallImageResNet(nn.Module):
    """A 3x3 convolution, groups of residual blocks that halve the resolution, the mean over it, a linear layer.

    Args:
        block: kind of the blocks.
        blocks: how many in each group.
        widths: channels of each group, before the block's expansion.
        zero_pad: shortcuts without parameters.
        shortcuts: False leaves all of them out.
        num_classes: outputs.
        in_channels: of the images.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: tuple[int, ...],
        widths: tuple[int, ...],
        *,
        zero_pad: bool,
        num_classes: int,
        in_channels: int,
        shortcuts: bool = True,
    ) -> None:
        super().__init__()
        before = widths[0]
        self.conv = nn.Conv2d(in_channels, before, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(before)
        layers: list[nn.Module] = []
        for group, (count, channels) in enumerate(zip(blocks, widths, strict=True)):
            for number in range(count):
                stride = 2 if group > 0 and number == 0 else 1
                after = channels * block.expansion
                shortcut: nn.Module = nn.Identity()
                if not shortcuts:
                    shortcut = NoShortcut()
                elif stride != 1 or before != after:
                    shortcut = (
                        ZeroPadShortcut(after - before, stride) if zero_pad else projection(before, after, stride)
                    )
                layers.append(block(before, channels, stride, shortcut))
                before = after
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Linear(before, num_classes)
        initialise_he(self)

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.blocks(torch.relu(self.bn(self.conv(inputs))))
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


def cifar_resnet(depth: int, num_classes: int, in_channels: int, *, shortcuts: bool = True) -> SmallImageResNet:
    """ResNet-20, 32, 44, 56, 110: three groups of (depth - 2) / 6 basic blocks with 16, 32 and 64 channels."""
    count = (depth - 2) // 6
    return SmallImageResNet(
        BasicBlock,
        (count,) * 3,
        (16, 32, 64),
        zero_pad=True,
        num_classes=num_classes,
        in_channels=in_channels,
        shortcuts=shortcuts,
    )


def resnet(depth: int, num_classes: int, in_channels: int) -> SmallImageResNet:
    """ResNet-18, 34, 50, 101, 152 with the first layer for small images."""
    return SmallImageResNet(
        BasicBlock if depth < 50 else Bottleneck,
        _BLOCKS[depth],
        (64, 128, 256, 512),
        zero_pad=False,
        num_classes=num_classes,
        in_channels=in_channels,
    )
