"""The networks that are timed: at their real sizes on a GPU, as small ones of the same kind on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from samtune.models.resnet import cifar_resnet, resnet
from samtune.models.wide_resnet import WideResNet

NUM_CLASSES = 10


class VisionTransformer(nn.Module):
    """ViT (Dosovitskiy et al., ICLR 2021) with the mean over patches in place of a class token."""

    def __init__(self, *, image: int, patch: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, stride=patch)
        self.positions = nn.Parameter(0.02 * torch.randn(1, (image // patch) ** 2, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, NUM_CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.patches(inputs).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        logits: Tensor = self.head(self.norm(tokens).mean(dim=1))
        return logits


@dataclass(frozen=True)
class Network:
    """A kind of network with images for it."""

    name: str
    make: Callable[[], nn.Module]
    image: int

    def build(self, device: torch.device, *, channels_last: bool = True) -> nn.Module:
        """With weights that are always the same."""
        torch.manual_seed(0)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        return self.make().to(device).to(memory_format=layout)

    def batch(self, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Random images and labels."""
        generator = torch.Generator().manual_seed(1)
        inputs = torch.randn(size, 3, self.image, self.image, generator=generator)
        targets = torch.randint(0, NUM_CLASSES, (size,), generator=generator)
        return inputs.to(device, memory_format=torch.channels_last), targets.to(device)

    def flops(self, size: int) -> int:
        """Of the products and convolutions in one forward and backward of a batch, counted without computing them."""
        with torch.device("meta"):
            model, inputs = self.make(), torch.randn(size, 3, self.image, self.image)
        with FlopCounterMode(display=False) as counter:
            model(inputs).sum().backward()
        return int(counter.get_total_flops())


FULL = (
    Network("WRN-28-10", lambda: WideResNet(28, 10, 0.0, NUM_CLASSES, 3), 32),
    Network("ResNet-18", lambda: resnet(18, NUM_CLASSES, 3), 32),
    Network("ResNet-50", lambda: resnet(50, NUM_CLASSES, 3), 32),
    Network("ViT-S/4", lambda: VisionTransformer(image=32, patch=4, width=384, depth=12, heads=6), 32),
)
SMALL = (
    Network("WRN-10-1", lambda: WideResNet(10, 1, 0.0, NUM_CLASSES, 3), 16),
    Network("ResNet-8", lambda: cifar_resnet(8, NUM_CLASSES, 3), 16),
    Network("ViT-mini", lambda: VisionTransformer(image=16, patch=4, width=32, depth=2, heads=2), 16),
)
"""For a CPU: their names are their own, so that no figure of theirs is taken for a real network's."""
