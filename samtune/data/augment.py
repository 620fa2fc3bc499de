"""Augmentation of a batch as tensor operations on its device; each example's randomness is its own.

Every function takes `key` (of the seed and the epoch) and `indices` (which example each row is), so that an image is
augmented in the same way whichever worker, batch or device it is in.
"""

from __future__ import annotations

import torch
from torch import Tensor

from samtune.data.hashing import fold, random_bits, random_int


def crop_and_mirror(images: Tensor, indices: Tensor, key: int, *, padding: int, mirror: bool) -> Tensor:
    """Pads with black, crops the original size at a random place, mirrors every second image at random.

    Args:
        images: uint8 [b, C, H, W].
        indices: int64 [b], on the device of the images.
        key: of seed and epoch.
        padding: pixels on each side.
        mirror: whether to mirror.

    Returns:
        uint8 [b, C, H, W].
    """
    height, width = images.shape[2:]
    top = random_int(fold(key, 0), indices, 2 * padding + 1)
    left = random_int(fold(key, 1), indices, 2 * padding + 1)
    padded = torch.nn.functional.pad(images, [padding] * 4)
    # A view of all crops, [b, top, left, C, H, W], of which one per image is copied.
    crops = padded.unfold(2, height, 1).unfold(3, width, 1).permute(0, 2, 3, 1, 4, 5)
    cropped = crops[torch.arange(len(images), device=images.device), top, left]
    if not mirror:
        return cropped
    flipped = random_bits(fold(key, 2), indices) < 0
    return torch.where(flipped[:, None, None, None], cropped.flip(3), cropped)


def cutout(inputs: Tensor, indices: Tensor, key: int, *, size: int) -> Tensor:
    """Sets a square at a random place to 0, the mean of normalised inputs (DeVries & Taylor 2017).

    The middle is uniform over all pixels; what of the square is outside the image is lost.

    Args:
        inputs: float32 [b, C, H, W], normalised; changed in place.
        indices: int64 [b], on the device of the inputs.
        key: of seed and epoch.
        size: side in pixels, rounded down to an even number.

    Returns:
        The inputs.
    """
    height, width = inputs.shape[2:]
    inside = []
    for number, length in enumerate((height, width)):
        first = random_int(fold(key, number), indices, length)[:, None] - size // 2
        places = torch.arange(length, device=inputs.device)
        inside.append((places >= first) & (places < first + 2 * (size // 2)))
    return inputs.masked_fill_((inside[0][:, :, None] & inside[1][:, None, :])[:, None], 0)
