"""WideResNet (Zagoruyko & Komodakis, BMVC 2016): a pre-activation ResNet of few layers and many channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from samtune.models.initialise import initialise_he


class WideBlock(nn.Module):
    """BN-ReLU-conv3x3, BN-ReLU-dropout-conv3x3 and a shortcut; the paper's B(3, 3). Without BN, with biases."""

    def __init__(self, in_channels: int, channels: int, stride: int, dropout: float, batch_norm: bool) -> None:
        super().__init__()
        norm = nn.BatchNorm2d if batch_norm else nn.Identity
        self.bn1 = norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=not batch_norm)
        self.bn2 = norm(channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=not batch_norm)
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
        batch_norm: False leaves BatchNorm out. The last convolution of each of L blocks then starts 1/√L as large: all
            blocks together add about as much to the variance of their input as one, which nothing normalises.
    """

    def __init__(
        self, depth: int, width: int, dropout: float, num_classes: int, in_channels: int, batch_norm: bool = True
    ) -> None:
        super().__init__()
        blocks_per_group, remainder = divmod(depth - 4, 6)
        assert remainder == 0
        self.conv = nn.Conv2d(in_channels, 16, 3, padding=1, bias=not batch_norm)
        blocks: list[nn.Module] = []
        before = 16
        for group, channels in enumerate((16 * width, 32 * width, 64 * width)):
            for block in range(blocks_per_group):
                stride = 2 if group > 0 and block == 0 else 1
                blocks.append(WideBlock(before, channels, stride, dropout, batch_norm))
                before = channels
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(before) if batch_norm else nn.Identity()
        self.head = nn.Linear(before, num_classes)
        initialise_he(self)
        if not batch_norm:
            with torch.no_grad():
                for wide_block in self.blocks:
                    assert isinstance(wide_block, WideBlock)
                    wide_block.conv2.weight.mul_(len(self.blocks) ** -0.5)

    def forward(self, inputs: Tensor) -> Tensor:
        features = torch.relu(self.bn(self.blocks(self.conv(inputs))))
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits
