"""The Hugging Face hub's Parquet layout: a struct column with the image file's bytes and an integer label column."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from samtune.data.sources.base import Images, Labels, Source, SplitName, Traits, check_arrays
from samtune.errors import DatasetError

_SHARD = re.compile(r"^(?P<split>[a-z]+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.parquet$")


def find_shards(folder: Path, split: SplitName) -> list[Path]:
    """The files `SPLIT-00000-of-0000N.parquet` of a folder in order; an empty list when there is none.

    Raises:
        DatasetError: some of the N are missing.
    """
    shards = {}
    for path in folder.glob(f"{split}-*.parquet"):
        if match := _SHARD.match(path.name):
            shards[int(match["number"]), int(match["count"])] = path
    if not shards:
        return []
    count = max(total for _, total in shards)
    missing = [number for number in range(count) if (number, count) not in shards]
    if missing:
        name = f"{split}-{missing[0]:05d}-of-{count:05d}.parquet"
        raise DatasetError(f"{folder / name}: missing ({len(missing)} of the {count} {split} files are not there)")
    return [shards[number, count] for number in range(count)]


class ParquetSource(Source):
    """Parquet files with an image column `{bytes, path}` and a label column.

    Args:
        shards: files of the training and of the test split.
        image, label: names of the columns.
    """

    def __init__(self, traits: Traits, shards: dict[SplitName, list[Path]], image: str, label: str) -> None:
        self.traits = traits
        self._shards = shards
        self._image, self._label = image, label
        self.options = (image, label)

    def check(self) -> None:
        for paths in self._shards.values():
            for path in paths:
                self._check_columns(path)

    def num_examples(self, split: SplitName) -> int:
        return sum(_metadata(path).num_rows for path in self._shards[split])

    def files(self, split: SplitName) -> Sequence[Path]:
        return self._shards[split]

    def read(self, split: SplitName) -> tuple[Images, Labels]:
        images = np.empty((self.num_examples(split), *self.traits.shape), dtype=np.uint8)
        labels = np.empty(len(images), dtype=np.int64)
        row = 0
        for path in self._shards[split]:
            self._check_columns(path)
            for batch in pq.ParquetFile(path).iter_batches(1024, columns=[f"{self._image}.bytes", self._label]):
                labels[row : row + len(batch)] = batch.column(self._label).to_numpy(zero_copy_only=False)
                for encoded in batch.column(self._image).field("bytes"):
                    images[row] = decode_image(encoded.as_py(), self.traits.shape, f"{path}: row {row}")
                    row += 1
        check_arrays(images, labels, self.traits, str(self._shards[split][0].parent))
        return images, labels

    def _check_columns(self, path: Path) -> None:
        schema = _metadata(path).schema.to_arrow_schema()
        for column in (self._image, self._label):
            if column not in schema.names:
                raise DatasetError(
                    f"{path}: no column {column!r} (expected {self._image!r} and {self._label!r}, "
                    f"found {', '.join(map(repr, schema.names))})"
                )
        image, label = schema.field(self._image).type, schema.field(self._label).type
        if not (pa.types.is_struct(image) and image.get_field_index("bytes") >= 0):
            raise DatasetError(f"{path}: column {self._image!r} must be a struct with the field 'bytes' (is {image})")
        if not pa.types.is_integer(label):
            raise DatasetError(f"{path}: column {self._label!r} must hold integers (is {label})")


def decode_image(encoded: bytes, shape: tuple[int, int, int], where: str) -> Images:
    """An image file (JPEG, PNG, ...) as uint8 [C, H, W] of exactly the given shape.

    Raises:
        DatasetError: it cannot be decoded, or is of another size.
    """
    from PIL import Image

    channels, height, width = shape
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            pixels = np.asarray(image.convert("RGB" if channels == 3 else "L"))
    except (OSError, SyntaxError, ValueError, TypeError) as error:
        raise DatasetError(f"{where}: the image cannot be decoded ({error})") from error
    if pixels.shape[:2] != (height, width):
        raise DatasetError(f"{where}: image of {pixels.shape[0]}x{pixels.shape[1]} pixels (expected {height}x{width})")
    return pixels.transpose(2, 0, 1) if channels == 3 else pixels[None]


def _metadata(path: Path) -> pq.FileMetaData:
    try:
        return pq.read_metadata(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DatasetError(f"{path}: not a readable Parquet file ({error})") from error
