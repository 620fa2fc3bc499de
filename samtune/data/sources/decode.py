"""Encoded images (JPEG, PNG, ...) to arrays of one size."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from samtune.config.data import OnError
from samtune.data.sources.base import ImageArray, LabelArray, allocate_images
from samtune.errors import DatasetError

if TYPE_CHECKING:
    from PIL import Image

_log = logging.getLogger(__name__)
_CHUNK = 1024  # images in flight


@dataclass(frozen=True)
class Decoder:
    """How encoded images become arrays of one shape.

    Attributes:
        shape: (channels, height, width) of the result.
        resize: fit the shorter side and crop the centre; if not, an image of another size is an error.
        on_error: what becomes of an example that cannot be read; None: the data set leaves no choice, it is an error.
    """

    shape: tuple[int, ...]
    resize: bool = False
    on_error: OnError | None = None

    def all(self, encoded: Iterable[tuple[str, Callable[[], bytes], int]], count: int) -> tuple[ImageArray, LabelArray]:
        """Decodes a whole split.

        Args:
            encoded: (where, read the bytes, label) of each image.
            count: how many they are, at most.

        Returns:
            uint8 [N, C, H, W] and int64 [N].

        Raises:
            DatasetError: an example cannot be read (unless these are skipped) or an image is of another size.
        """
        images = allocate_images(count, self.shape)
        labels = np.empty(count, dtype=np.int64)
        row, damaged = 0, []
        for result in self._decoded(encoded):
            if isinstance(result, DatasetError):
                damaged.append(result)
            else:
                images[row], labels[row] = result
                row += 1
        if damaged:
            _log.warning("%d of %d images were skipped; the first: %s", len(damaged), count, damaged[0])
        return images[:row], labels[:row]

    def _decoded(
        self, encoded: Iterable[tuple[str, Callable[[], bytes], int]]
    ) -> Iterator[tuple[ImageArray, int] | DatasetError]:
        def decode(item: tuple[str, Callable[[], bytes], int]) -> tuple[ImageArray, int] | DatasetError:
            where, read, label = item
            try:
                return self.one(read(), where), label
            except DamagedImageError as error:
                if self.on_error == "skip":
                    return error
                raise (error.with_offer() if self.on_error else error) from error.__cause__

        if not self.resize:  # small images: the interpreter's lock makes threads slower than one
            yield from map(decode, encoded)
            return
        items = iter(encoded)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            while chunk := list(islice(items, _CHUNK)):
                yield from pool.map(decode, chunk)

    def one(self, encoded: bytes, where: str) -> ImageArray:
        """One image as uint8 [C, H, W].

        Raises:
            DatasetError: it is of another size, and is not to be resized.
            DamagedImageError: it cannot be decoded.
        """
        from PIL import Image, ImageOps

        _, height, width = self.shape
        image = self.open(encoded, where)
        if image.size != (width, height):
            if not self.resize:
                raise DatasetError(
                    f"{where}: image of {image.height}x{image.width} pixels (expected {height}x{width}); "
                    "all must be of one size"
                )
            image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
        return planes(image)

    def open(self, encoded: bytes, where: str) -> Image.Image:
        """One image in its own size, grey or in colour as `shape` says.

        Raises:
            DamagedImageError: it cannot be decoded.
        """
        from PIL import Image

        try:
            with Image.open(io.BytesIO(encoded)) as opened:
                return eight_bits(opened).convert("RGB" if self.shape[0] == 3 else "L")
        except (OSError, SyntaxError, ValueError, TypeError) as error:
            raise _damaged(encoded, where, error) from error


def planes(image: Image.Image) -> ImageArray:
    """uint8 [C, H, W] of an image."""
    pixels = np.asarray(image)
    return pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels[None]


def eight_bits(image: Image.Image) -> Image.Image:
    """The image with 8 bits per channel: 0..65535 becomes 0..255, where Pillow's `convert` would clip at 255.

    Raises:
        ValueError: its pixels are 32-bit integers or floats, of which nobody knows which is white.
    """
    from PIL import Image

    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if not sixteen:
        if image.mode in ("I", "F"):
            raise ValueError(f"its pixels are 32-bit {'integers' if image.mode == 'I' else 'floats'}; 8 or 16 are read")
        return image
    pixels = np.asarray(image).astype(np.int64).clip(0, 65535)
    return Image.fromarray(((pixels + 128) // 257).astype(np.uint8))


class DamagedImageError(DatasetError):
    """An example that cannot be read: its image or its label is missing or damaged."""

    def with_offer(self) -> DamagedImageError:
        """The same error, with how to skip the example."""
        return type(self)(f"{self} (data.on_error: skip leaves such images out)")


def size_of(encoded: bytes, where: str) -> tuple[int, int]:
    """(height, width) of an encoded image, from its header.

    Raises:
        DamagedImageError: it is none.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return image.height, image.width
    except (OSError, SyntaxError, ValueError, TypeError) as error:
        raise _damaged(encoded, where, error) from error


def _damaged(encoded: bytes, where: str, error: Exception) -> DamagedImageError:
    """What is wrong with an image. Pillow names the memory that it is in where it knows no more."""
    from PIL import UnidentifiedImageError

    reason = str(error)
    if isinstance(error, UnidentifiedImageError):
        reason = "not in a format that Pillow knows" if encoded else "the file is empty"
    return DamagedImageError(f"{where}: the image cannot be decoded ({reason})")


def read_image_file(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        DamagedImageError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DamagedImageError(f"{path}: cannot be read ({error.strerror or error})") from error
