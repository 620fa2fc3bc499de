"""The image operations of AutoAugment and its successors, on a batch, with a magnitude for each image.

Every function maps uint8 [b, C, H, W] (C = 1 or 3) and float64 [b] magnitudes to uint8 [b, C, H, W], and gives what
torchvision's function of the same name gives for each image alone. All sums are of integers, and no operation mixes
images, so that the result for an image does not depend on the batch it is in.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def sample(images: Tensor, matrix: Tensor) -> Tensor:
    """Nearest-neighbour resampling at affinely transformed places; black where these are outside.

    Args:
        images: uint8 [b, C, H, W].
        matrix: float64 [b, 6]: (a, b, c, d, e, f) takes the pixel centre (x, y), relative to the middle of the image,
            from the source at (a*x + b*y + c, d*x + e*y + f).
    """
    batch, channels, height, width = images.shape
    x = torch.arange(width, dtype=matrix.dtype, device=images.device) - (width - 1) / 2
    y = (torch.arange(height, dtype=matrix.dtype, device=images.device) - (height - 1) / 2)[:, None]
    a, b, c, d, e, f = matrix[:, :, None, None].unbind(1)
    source_x = (a * x + b * y + c + (width - 1) / 2).round().long()
    source_y = (d * x + e * y + f + (height - 1) / 2).round().long()
    inside = (source_x >= 0) & (source_x < width) & (source_y >= 0) & (source_y < height)
    place = source_y.clamp(0, height - 1) * width + source_x.clamp(0, width - 1)
    place = place.view(batch, 1, -1).expand(-1, channels, -1)
    taken = images.flatten(2).gather(2, place).view_as(images)
    return torch.where(inside[:, None], taken, 0)


def enlarge_boxes(images: Tensor, boxes: Tensor) -> Tensor:
    """Cuts a box out of each image and enlarges it to the image's size, bilinearly.

    Args:
        images: uint8 [b, C, H, W].
        boxes: int64 [b, 4]: (top, left, height, width), inside the image.

    Returns:
        uint8 [b, C, H, W].
    """
    batch, channels, height, width = images.shape
    top, left, box_height, box_width = boxes.unbind(1)
    result = images.float()
    for dim, first, length, size in ((2, top, box_height, height), (3, left, box_width, width)):
        scale = (length.double() / size)[:, None]
        place = (torch.arange(size, device=images.device, dtype=torch.float64) + 0.5) * scale - 0.5
        place = place.clamp(min=0)
        low = place.long()
        share = (place - low).float()
        high = torch.minimum(low + 1, length[:, None] - 1)
        shape = (batch, 1, size, 1) if dim == 2 else (batch, 1, 1, size)
        expanded = (batch, channels, size, width) if dim == 2 else (batch, channels, height, size)
        low_values, high_values = (
            result.gather(dim, (first[:, None] + index).view(shape).expand(expanded)) for index in (low, high)
        )
        share = share.view(shape)
        result = low_values * (1 - share) + high_values * share
    return result.round().to(torch.uint8)


def affine_matrix(name: str, magnitude: float, height: int, width: int) -> tuple[float, ...]:
    """The matrix of `sample` for a geometric operation (shear factor, pixels, or degrees)."""
    match name:
        case "ShearX":
            return (1, magnitude, magnitude * height / 2, 0, 1, 0)
        case "ShearY":
            return (1, 0, 0, magnitude, 1, magnitude * width / 2)
        case "TranslateX":
            return (1, 0, -int(magnitude), 0, 1, 0)
        case "TranslateY":
            return (1, 0, 0, 0, 1, -int(magnitude))
        case _:
            assert name == "Rotate"
            cos, sin = math.cos(math.radians(magnitude)), math.sin(math.radians(magnitude))
            return (cos, -sin, 0, sin, cos, 0)


def brightness(images: Tensor, magnitude: Tensor) -> Tensor:
    """Blends with black; -1 is black, 0 the image itself."""
    return _blend(images, torch.zeros_like(images), magnitude)


def color(images: Tensor, magnitude: Tensor) -> Tensor:
    """Blends with grey levels of the same luminance."""
    return images if images.shape[1] == 1 else _blend(images, _grey(images), magnitude)


def contrast(images: Tensor, magnitude: Tensor) -> Tensor:
    """Blends with the image's mean luminance."""
    grey = _grey(images)
    mean = grey.long().sum(dim=(1, 2, 3), keepdim=True).float() / grey[0].numel()
    return _blend(images, mean, magnitude)


def sharpness(images: Tensor, magnitude: Tensor) -> Tensor:
    """Blends with a 3x3 blur of weights 1 and 5 in the centre; the border is kept."""
    height, width = images.shape[2:]
    if height <= 2 or width <= 2:
        return images
    pixels = images.long()
    total = 4 * pixels[:, :, 1:-1, 1:-1]
    for top in range(3):
        for left in range(3):
            total = total + pixels[:, :, top : height - 2 + top, left : width - 2 + left]
    blurred = images.clone()
    blurred[:, :, 1:-1, 1:-1] = (total.float() / 13).round().to(torch.uint8)
    return _blend(images, blurred, magnitude)


def posterize(images: Tensor, magnitude: Tensor) -> Tensor:
    """Keeps the highest `magnitude` bits of each pixel."""
    dropped = 8 - magnitude.long()
    mask = 256 - torch.bitwise_left_shift(torch.ones_like(dropped), dropped)
    return images & mask.to(torch.uint8)[:, None, None, None]


def solarize(images: Tensor, magnitude: Tensor) -> Tensor:
    """Inverts the pixels that are not below `magnitude`."""
    return torch.where(images >= magnitude[:, None, None, None], 255 - images, images)


def autocontrast(images: Tensor, magnitude: Tensor) -> Tensor:
    """Stretches each channel to 0..255; a channel of one value is kept."""
    low = images.amin(dim=(2, 3), keepdim=True).float()
    high = images.amax(dim=(2, 3), keepdim=True).float()
    constant = low == high
    scale = torch.where(constant, 1.0, 255 / (high - low))
    return ((images - torch.where(constant, 0.0, low)) * scale).clamp(0, 255).to(torch.uint8)


def equalize(images: Tensor, magnitude: Tensor) -> Tensor:
    """Makes the histogram of each channel as flat as a monotone map of its values can."""
    pixels = images.flatten(2).long()
    histogram = torch.zeros(*pixels.shape[:2], 256, dtype=torch.int64, device=images.device)
    histogram.scatter_add_(2, pixels, torch.ones_like(pixels))
    at_maximum = histogram.gather(2, pixels.amax(dim=2, keepdim=True))
    step = (pixels.shape[2] - at_maximum) // 255
    table = (histogram.cumsum(2) + step // 2) // step.clamp(min=1)
    table = torch.nn.functional.pad(table, (1, 0))[:, :, :-1].clamp(0, 255)
    mapped = table.gather(2, pixels).to(torch.uint8).view_as(images)
    return torch.where(step[..., None] == 0, images, mapped)


def invert(images: Tensor, magnitude: Tensor) -> Tensor:
    """Light becomes dark."""
    return 255 - images


def _grey(images: Tensor) -> Tensor:
    """The luminance, uint8 [b, 1, H, W]."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).to(torch.uint8)[:, None]


def _blend(images: Tensor, degenerate: Tensor, magnitude: Tensor) -> Tensor:
    """images * (1 + magnitude) - degenerate * magnitude."""
    factor = 1 + magnitude[:, None, None, None]
    blended = factor.float() * images + (1 - factor).float() * degenerate
    return blended.clamp(0, 255).to(torch.uint8)


GEOMETRIC = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")

PIXELWISE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Brightness": brightness,
    "Color": color,
    "Contrast": contrast,
    "Sharpness": sharpness,
    "Posterize": posterize,
    "Solarize": solarize,
    "AutoContrast": autocontrast,
    "Equalize": equalize,
    "Invert": invert,
}
