"""A network small enough that one pass over scikit-learn's digits takes a fraction of a second on one CPU core."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from samtune.models.initialise import initialise_he


class DigitsCnn(nn.Module):
    """Two 3x3 convolutions with BatchNorm and ReLU, each followed by 2x2 max pooling, and a linear layer.

    Args:
        width: channels of the first convolution; the second has twice as many.
        num_classes: outputs.
        input_shape: (channels, height, width), at least 4x4 pixels.
    """

    def __init__(self, width: int, num_classes: int, input_shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width_px = input_shape
        if height < 4 or width_px < 4:
            raise ValueError(f"digits_cnn needs images of at least 4x4 pixels (got {height}x{width_px})")
        self.features = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.head = nn.Linear(2 * width * (height // 4) * (width_px // 4), num_classes)
        initialise_he(self)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.flatten(self.features(inputs), 1))
        return logits
