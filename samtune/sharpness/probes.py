"""Random vectors x with E[xxᵀ] = I, the same on every rank."""

from __future__ import annotations

import torch
from torch import Tensor

from samtune.sharpness.loss import MeanLoss


def probe_generator(mean_loss: MeanLoss, seed: int) -> torch.Generator:
    """Random numbers on the model's device."""
    return torch.Generator(mean_loss.device).manual_seed(seed)


def rademacher(mean_loss: MeanLoss, count: int, generator: torch.Generator) -> Tensor:
    """Entries +1 or -1 with equal chance, [count, d]: of all such x, the xᵀHx of least variance."""
    signs = torch.randint(0, 2, (count, mean_loss.num_weights), device=mean_loss.device, generator=generator)
    return signs.to(mean_loss.dtype).mul_(2).sub_(1)
