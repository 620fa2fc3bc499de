"""Mixup (Zhang et al., ICLR 2018) and CutMix (Yun et al., ICCV 2019): batches mixed with a permutation of themselves.

As in the authors' code, a batch has one weight and one permutation. Both are functions of (seed, epoch, step), and
the partners come from the whole global batch, so that the mixed batch does not depend on the number of workers.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from samtune.data.counter_rng import fold


@dataclass(frozen=True)
class Mix:
    """How one batch is mixed.

    Attributes:
        weight: of the example's own label, in [0, 1].
        box: (top, bottom, left, right) of the pixels that come from the partner; None: all are averaged (Mixup).
    """

    weight: float
    box: tuple[int, int, int, int] | None = None

    def inputs(self, own: Tensor, partner: Tensor) -> Tensor:
        """float32 [b, C, H, W] of the two."""
        if self.box is None:
            return own.mul(self.weight).add_(partner.mul(1 - self.weight))
        top, bottom, left, right = self.box
        mixed = own.clone()
        mixed[:, :, top:bottom, left:right] = partner[:, :, top:bottom, left:right]
        return mixed

    def targets(self, own: Tensor, partner: Tensor, num_classes: int) -> Tensor:
        """Class probabilities, float32 [b, num_classes], of two int64 [b]."""
        one_hot = torch.nn.functional.one_hot
        own, partner = one_hot(own, num_classes).float(), one_hot(partner, num_classes).float()
        return own.mul_(self.weight).add_(partner.mul_(1 - self.weight))


def draw_mix(mixup: float, cutmix: float, height: int, width: int, key: int) -> Mix:
    """How a batch is mixed.

    Args:
        mixup, cutmix: the α of each; when both are positive, each is used with probability 1/2.
        height, width: of the images.
        key: of seed, epoch and step.
    """
    numbers = random.Random(fold(key))
    use_cutmix = numbers.random() < 0.5 if mixup and cutmix else cutmix > 0
    alpha = cutmix if use_cutmix else mixup
    weight = numbers.betavariate(alpha, alpha)
    if not use_cutmix:
        return Mix(weight)
    side = (1 - weight) ** 0.5
    middle_y, middle_x = numbers.randrange(height), numbers.randrange(width)
    half_y, half_x = int(height * side) // 2, int(width * side) // 2
    top, bottom = max(0, middle_y - half_y), min(height, middle_y + half_y)
    left, right = max(0, middle_x - half_x), min(width, middle_x + half_x)
    weight = 1 - (bottom - top) * (right - left) / (height * width)
    return Mix(weight, (top, bottom, left, right))
