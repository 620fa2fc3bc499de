"""Image files of any size: decoded, and cut to one size."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from samtune.data.augment import draw_boxes
from samtune.data.sources.decode import DamagedImageError, Decoder, read_image_file
from samtune.data.stream import Reader


class ImageFiles(Reader):
    """Photographs in files.

    With a crop key, a random box of the whole image is enlarged to `size` (Szegedy et al. 2015, as torchvision's
    RandomResizedCrop); without, the shorter side is resized to `size / centre` and the centre is cut out.

    Args:
        root: folder of the files.
        names: their paths in it.
        size: side of the result in pixels.
        channels: 3 or 1.
        centre: share of the shorter side that an evaluation sees; 0.875 is usual (224 of 256 pixels).
    """

    def __init__(self, root: Path, names: Sequence[str], *, size: int, channels: int, centre: float) -> None:
        self._root, self._size, self._channels, self._centre = root, size, channels, centre
        # Two tensors, which all processes share, and not a million strings in each of them.
        encoded = [os.fsencode(name) for name in names]
        self._bytes = torch.frombuffer(bytearray(b"".join(encoded) or b" "), dtype=torch.uint8)
        self._ends = torch.tensor([0, *map(len, encoded)]).cumsum(0)

    def path(self, row: int) -> Path:
        """Where an image is."""
        first, last = self._ends[row : row + 2].tolist()
        return self._root / os.fsdecode(self._bytes[first:last].numpy().tobytes())

    def read(self, row: int, crop: int | None) -> Tensor:
        """uint8 [C, size, size]."""
        from torchvision.transforms.v2 import functional

        image = self._decode(self.path(row))
        height, width = image.shape[1:]
        size = [self._size, self._size]
        if crop is not None:
            top, left, box_height, box_width = draw_boxes(torch.tensor([row]), crop, height, width)[0].tolist()
            resized: Tensor = functional.resized_crop(image, top, left, box_height, box_width, size, antialias=True)
            return resized
        shorter = round(self._size / self._centre)
        scale = shorter / min(height, width)
        whole = functional.resize(image, [max(shorter, round(height * scale)), max(shorter, round(width * scale))])
        centred: Tensor = functional.center_crop(whole, size)
        return centred

    def _decode(self, path: Path) -> Tensor:
        from torchvision.io import ImageReadMode, decode_image

        encoded = read_image_file(path)
        mode = ImageReadMode.RGB if self._channels == 3 else ImageReadMode.GRAY
        try:
            data = torch.from_numpy(np.frombuffer(encoded, dtype=np.uint8).copy())
            image: Tensor = decode_image(data, mode)
        except (RuntimeError, ValueError):  # damaged, or a format that torchvision does not read and Pillow may
            return torch.from_numpy(Decoder((self._channels, 0, 0)).whole(encoded, str(path)).copy())
        if image.dtype != torch.uint8 or image.ndim != 3:
            raise DamagedImageError(f"{path}: not a single image of 8 bits per channel")
        return image
