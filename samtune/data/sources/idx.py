"""MNIST's IDX format (LeCun 1998), which Fashion-MNIST shares: a big-endian header and then bytes."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samtune.data.sources.base import DataSource, ImageArray, LabelArray, SplitName, check_arrays
from samtune.data.sources.traits import Traits
from samtune.errors import DatasetError

_PREFIX: dict[SplitName, str] = {"train": "train", "test": "t10k"}
_UINT8 = 0x08  # the type code of unsigned bytes


class IdxSource(DataSource):
    """`train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and the same with `t10k`, compressed (`.gz`) or not."""

    def __init__(self, traits: Traits, folder: Path) -> None:
        self.traits = traits
        self._files = {split: (self._find(folder, split, 3), self._find(folder, split, 1)) for split in _PREFIX}

    def check(self) -> None:
        for split in _PREFIX:
            self.num_examples(split)

    def num_examples(self, split: SplitName) -> int:
        images, labels = (_read_header(path) for path in self._files[split])
        if len(images) != 3 or len(labels) != 1 or images[0] != labels[0]:
            raise DatasetError(
                f"{self._files[split][0]}: images of shape {images} and labels of shape {labels} do not go together"
            )
        return images[0]

    def files(self, split: SplitName) -> Sequence[Path]:
        return self._files[split]

    def read(self, split: SplitName) -> tuple[ImageArray, LabelArray]:
        self.num_examples(split)
        images, labels = (_read_array(path) for path in self._files[split])
        check_arrays(images[:, None], labels.astype(np.int64), self.traits, str(self._files[split][0]))
        return images[:, None], labels.astype(np.int64)

    def _find(self, folder: Path, split: SplitName, num_dimensions: int) -> Path:
        kind = "images" if num_dimensions == 3 else "labels"
        name = f"{_PREFIX[split]}-{kind}-idx{num_dimensions}-ubyte"
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
        raise DatasetError(f"{folder / name}: missing, and so is {name}.gz (a part of the data set, in MNIST's format)")


def _read(path: Path, num_bytes: int = -1) -> bytes:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return file.read(num_bytes)
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path}: cannot be read ({error})") from error


def _read_header(path: Path) -> tuple[int, ...]:
    """The shape of the array in the file."""
    header = _read(path, 16)
    if len(header) < 4 or header[:3] != bytes((0, 0, _UINT8)) or len(header) < 4 + 4 * header[3]:
        raise DatasetError(f"{path}: not a file of bytes in MNIST's IDX format")
    return struct.unpack_from(f">{header[3]}I", header, 4)


def _read_array(path: Path) -> NDArray[np.uint8]:
    shape = _read_header(path)
    content = np.frombuffer(_read(path), dtype=np.uint8)[4 + 4 * len(shape) :]
    if len(content) != np.prod(shape):
        raise DatasetError(f"{path}: {len(content)} bytes of data (the header says {np.prod(shape)})")
    return content.reshape(shape)
