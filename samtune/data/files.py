"""Image files of any size: decoded, and cut to one size."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from samtune.data.augment import draw_box
from samtune.data.sources.decode import Decoder, planes, read_image_file
from samtune.data.stream import Reader


class ImageFiles(Reader):
    """Photographs in files.

    With a crop key, a random box of the whole image is enlarged to `size` (Szegedy et al. 2015, as torchvision's
    RandomResizedCrop); without, the square in the middle. Bilinear, with anti-aliasing.

    Args:
        root: folder of the files.
        names: their paths in it.
        size: side of the result in pixels.
        channels: 3 or 1.
        centre: side of that square as a share of the shorter side; 0.875 is usual (224 of 256 pixels).
    """

    def __init__(self, root: Path, names: Sequence[str], *, size: int, channels: int, centre: float) -> None:
        self._root, self._size, self._centre = root, size, centre
        self._decoder = Decoder((channels, size, size), resize=True)
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
        from PIL import Image

        path = self.path(row)
        image = self._decoder.open(read_image_file(path), str(path))
        width, height = image.size
        if crop is None:
            side = round(min(width, height) * self._centre)
            top, left, box_height, box_width = (height - side) // 2, (width - side) // 2, side, side
        else:
            top, left, box_height, box_width = draw_box(row, crop, height, width)
        box = image.crop((left, top, left + box_width, top + box_height))
        resized = box.resize((self._size, self._size), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(planes(resized), order="C"))
