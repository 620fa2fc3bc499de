"""Where the images of a data set come from while it is trained on: memory, or files that are read as they are needed.

Both give images for lists of examples that are known in advance, so that a source may read ahead.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from samtune.data.augment import draw_boxes
from samtune.data.image_ops import enlarge_boxes
from samtune.sam import tree

MAX_RESIDENT_BYTES = 4 * 2**30
"""A data set up to this size is copied to the accelerator once; of a larger one, each batch is."""


class ImageSource(ABC):
    """All examples of a data set's files, by row."""

    @abstractmethod
    def batches(
        self, indices: Tensor, requests: Iterable[Tensor], device: torch.device, *, crop: int | None, replace: bool
    ) -> Iterator[tuple[Any, Tensor]]:
        """The inputs of one batch after another.

        Args:
            indices: int64 [N]: the rows of a split.
            requests: int64 [b] each: positions in `indices`.
            device: where the inputs are wanted.
            crop: the key (of seed and epoch) of a random box that is cut out of each image and enlarged; None: the
                images as they are.
            replace: of an image that turns out to be damaged (and may be), whether the next one of the split takes its
                place, or nothing does.

        Yields:
            inputs [b, ...] on the device, and the positions int64 [b] that they are of: those asked for, but for
            damaged images.
        """

    def one_batch(self, indices: Tensor, positions: Tensor, device: torch.device) -> tuple[Any, Tensor]:
        """One batch of unaugmented inputs, read at once; as `batches` gives it."""
        return next(self.batches(indices, [positions], device, crop=None, replace=True))


class ResidentImages(ImageSource):
    """All images of one file: pixels on the host, and a copy on each accelerator that asked for them."""

    def __init__(self, pixels: Any) -> None:
        self.pixels = pixels
        """uint8 [N, C, H, W], or inputs of any kind [N, ...] and structure; possibly pages of a file. Not to be written
        to."""
        self._nbytes = sum(tensor.nbytes for tensor in tree.leaves(pixels))
        self._resident: dict[torch.device, Any] = {}

    def batches(
        self, indices: Tensor, requests: Iterable[Tensor], device: torch.device, *, crop: int | None, replace: bool
    ) -> Iterator[tuple[Any, Tensor]]:
        for positions in requests:
            rows = indices[positions]
            images = self.take(rows, device)
            if crop is not None:
                boxes = draw_boxes(rows, crop, *images.shape[2:])
                images = enlarge_boxes(images, boxes.to(device, non_blocking=True))
            yield images, positions

    def take(self, rows: Tensor, device: torch.device) -> Any:
        """The images of `rows` (int64 [b], on the host), as uint8 [b, C, H, W] on the device."""
        if device.type == "cpu":
            return tree.map_tensors(lambda pixels: pixels.index_select(0, rows), self.pixels)
        if self._nbytes <= MAX_RESIDENT_BYTES:
            if device not in self._resident:
                self._resident[device] = tree.map_tensors(lambda pixels: pixels.to(device), self.pixels)
            there = rows.to(device, non_blocking=True)
            return tree.map_tensors(lambda pixels: pixels.index_select(0, there), self._resident[device])
        return tree.map_tensors(
            lambda pixels: pixels.index_select(0, rows).pin_memory().to(device, non_blocking=True), self.pixels
        )


def joined(inputs: Sequence[Any]) -> Any:
    """Inputs of one shape (or structure of shapes) as a batch, in memory that another process may take over uncopied.

    Raises:
        ValueError: they are of different shapes.
    """
    return tree.combine(_stacked, inputs)


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) > 1:
        raise ValueError(f"inputs of one batch are of different shapes: {', '.join(map(str, sorted(shapes)))}")
    return torch.stack(list(tensors))
