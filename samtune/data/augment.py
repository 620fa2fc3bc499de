"""Augmentation of a batch as tensor operations on its device; each example's randomness is its own.

Every function takes `key` (of the seed and the epoch) and `indices` (which example each row is), so that an image is
augmented in the same way whichever worker, batch or device it is in.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from samtune.data.counter_rng import fold, random_bits, random_int, random_uniform, uniform_number


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
    return mirror_half(cropped, indices, fold(key, 2)) if mirror else cropped


def mirror_half(images: Tensor, indices: Tensor, key: int) -> Tensor:
    """Mirrors every second image, at random, left to right."""
    flipped = random_bits(key, indices) < 0
    return torch.where(flipped[:, None, None, None], images.flip(3), images)


def draw_boxes(examples: Tensor, key: int, height: int, width: int) -> Tensor:
    """Random boxes of 8% to 100% of the image's area and a ratio of 3:4 to 4:3 (Szegedy et al. 2015, as torchvision).

    The first of ten draws that fits; if none does, the whole image.

    Args:
        examples: int64 [b] on the host: the examples' indices.
        key: of seed and epoch.
        height, width: of the images.

    Returns:
        int64 [b, 4]: (top, left, height, width) of each box.
    """
    boxes = torch.tensor([0, 0, height, width]).repeat(len(examples), 1)
    for attempt in reversed(range(10)):  # an earlier one that fits overwrites
        area = height * width * (0.08 + 0.92 * random_uniform(fold(key, attempt, 0), examples))
        ratio = torch.exp(math.log(4 / 3) * (2 * random_uniform(fold(key, attempt, 1), examples) - 1))
        box_width, box_height = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
        top = (random_uniform(fold(key, attempt, 2), examples) * (height - box_height + 1)).floor()
        left = (random_uniform(fold(key, attempt, 3), examples) * (width - box_width + 1)).floor()
        fits = (box_width <= width) & (box_height <= height)
        drawn = torch.stack([top, left, box_height, box_width], dim=1).long()
        boxes = torch.where(fits[:, None], drawn, boxes)
    return boxes


def draw_box(example: int, key: int, height: int, width: int) -> tuple[int, int, int, int]:
    """What `draw_boxes` gives for one example: a hundred times faster there, where each image has its own size."""
    for attempt in range(10):
        area = height * width * (0.08 + 0.92 * uniform_number(fold(key, attempt, 0), example))
        ratio = math.exp(math.log(4 / 3) * (2 * uniform_number(fold(key, attempt, 1), example) - 1))
        box_width, box_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if box_width <= width and box_height <= height:
            top = uniform_number(fold(key, attempt, 2), example) * (height - box_height + 1)
            left = uniform_number(fold(key, attempt, 3), example) * (width - box_width + 1)
            return int(top), int(left), box_height, box_width
    return 0, 0, height, width


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
