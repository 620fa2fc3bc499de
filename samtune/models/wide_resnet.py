"""WideResNet (Zagoruyko & Komodakis, BMVC 2016): a pre-activation ResNet of few layers and many channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from samtune.models.initialise import initialise_he


class WideBlock(nn.Module):
    """BN-ReLU-conv3x3, BN-ReLU-dropout-conv3x3 and a shortcut; the paper's B(3, 3)."""

    def __init__(self, in_channels: int, channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.shortcut = (
            nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)
            if stride != 1 or in_channels != channels
            else None
        )

    def forward(self, inputs: Tensor) -> Tensor:
        activated = torch.relu(self.bn1(inputs))
        # The projection sees the activated input, the identity the raw one, as in the authors' code.
        shortcut = inputs if self.shortcut is None else self.shortcut(activated)
        hidden = torch.relu(self.bn2(self.conv1(activated)))
        residual: Tensor = self.conv2(self.dropout(hidden))
        return residual + shortcut


class WideResNet(nn.Module):
    """WRN-depth-width: three groups of (depth - 4) / 6 blocks with 16, 32 and 64 times `width` channels.

    Args:
        depth: 6n + 4.
        width: the widening factor k.
        dropout: between the convolutions of a block.
        num_classes: outputs.
        in_channels: of the images.
    """

    def __init__(self, depth: int, width: int, dropout: float, num_classes: int, in_channels: int) -> None:
        super().__init__()
        blocks_per_group, remainder = divmod(depth - 4, 6)
        assert remainder == 0
        self.conv = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        before = 16
        for group, channels in enumerate((16 * width, 32 * width, 64 * width)):
            for block in range(blocks_per_group):
                stride = 2 if group > 0 and block == 0 else 1
                blocks.append(WideBlock(before, channels, stride, dropout))
                before = channels
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(before)
        self.head = nn.Linear(before, num_classes)
        initialise_he(self)

    def forward(self, inputs: Tensor) -> Tensor:
        features = torch.relu(self.bn(self.blocks(self.conv(inputs))))
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits
