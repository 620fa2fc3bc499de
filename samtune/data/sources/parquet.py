"""The Hugging Face hub's Parquet layout: a struct column with the image file's bytes and an integer label column."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from samtune.config.data import ParquetConfig
from samtune.data.root import root_folder
from samtune.data.sources.base import DataSource, ImageArray, LabelArray, SplitName, check_arrays
from samtune.data.sources.decode import DamagedImageError, Decoder, size_of
from samtune.data.sources.traits import Traits
from samtune.errors import DatasetError

_SHARD = re.compile(r"^(?P<split>[a-z]+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.parquet$")


def find_shards(folder: Path, split: str) -> list[Path]:
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


def find_parquet(config: ParquetConfig) -> ParquetSource:
    """Any data set in the hub's layout.

    The number of classes is that of the hub's metadata in the file, or else the largest label plus one.

    Raises:
        DatasetError: there is no training file, or it has not the columns.
    """
    folder = root_folder(config.root)
    train = find_shards(folder, "train")
    if not train:
        raise DatasetError(
            f"no Parquet data set in {folder}: train-00000-of-00001.parquet (or more such files) is not there"
        )
    shards: dict[SplitName, list[Path]] = {
        "train": train,
        "test": find_shards(folder, "test") or find_shards(folder, "validation"),
    }
    for path in train:
        _check_columns(path, config.image_column, config.label_column)
    size = config.image_size
    height, width = _first_size(train[0], config) if size is None else (size, size)
    num_classes = _num_classes(train, config.label_column)
    decoder = Decoder((config.channels, height, width), config.image_size is not None, config.on_error)
    traits = Traits(num_classes, decoder.shape)
    return ParquetSource(traits, shards, config.image_column, config.label_column, decoder)


class ParquetSource(DataSource):
    """Parquet files with an image column `{bytes, path}` and a label column.

    Args:
        shards: files of each split.
        image, label: names of the columns.
        decoder: default: images must have exactly the shape of the traits.
    """

    def __init__(
        self,
        traits: Traits,
        shards: dict[SplitName, list[Path]],
        image: str,
        label: str,
        decoder: Decoder | None = None,
    ) -> None:
        self.traits = traits
        self._shards = shards
        self._image, self._label = image, label
        self._decoder = decoder or Decoder(traits.shape)
        self.options = (image, label, str(self._decoder))

    def check(self) -> None:
        for paths in self._shards.values():
            for path in paths:
                _check_columns(path, self._image, self._label)

    def num_examples(self, split: SplitName) -> int:
        return sum(_metadata(path).num_rows for path in self._shards[split])

    def files(self, split: SplitName) -> Sequence[Path]:
        return self._shards[split]

    def read(self, split: SplitName) -> tuple[ImageArray, LabelArray]:
        images, labels = self._decoder.all(self._encoded(split), self.num_examples(split))
        check_arrays(images, labels, self.traits, str(self._shards[split][0].parent))
        return images, labels

    def _encoded(self, split: SplitName) -> Iterator[tuple[str, Callable[[], bytes], int]]:
        for path in self._shards[split]:
            _check_columns(path, self._image, self._label)
            row = 0
            for batch in pq.ParquetFile(path).iter_batches(1024, columns=[f"{self._image}.bytes", self._label]):
                images, labels = batch.column(self._image).field("bytes"), batch.column(self._label).to_pylist()
                for encoded, label in zip(images, labels, strict=True):
                    where = f"{path}: row {row}"
                    read = partial(self._encoded_image, encoded, label, where)
                    yield where, read, -1 if label is None else label
                    row += 1

    def _encoded_image(self, encoded: pa.BinaryScalar, label: int | None, where: str) -> bytes:
        """The image file of a row.

        Raises:
            DamagedImageError: the row has no image or no label.
            DatasetError: its label is out of range.
        """
        if label is None:
            raise DamagedImageError(f"{where}, column {self._label!r}: no label (null)")
        if not 0 <= label < self.traits.num_classes:
            raise DatasetError(
                f"{where}, column {self._label!r}: labels must be in 0..{self.traits.num_classes - 1} (found {label})"
            )
        return _bytes_of(encoded, self._image, where)


def _check_columns(path: Path, image_column: str, label_column: str) -> None:
    schema = _metadata(path).schema.to_arrow_schema()
    for column in (image_column, label_column):
        if column not in schema.names:
            raise DatasetError(
                f"{path}: no column {column!r} (expected {image_column!r} and {label_column!r}, "
                f"found {', '.join(map(repr, schema.names))})"
            )
    image, label = schema.field(image_column).type, schema.field(label_column).type
    if not (pa.types.is_struct(image) and image.get_field_index("bytes") >= 0):
        raise DatasetError(f"{path}: column {image_column!r} must be a struct with the field 'bytes' (is {image})")
    if not pa.types.is_integer(label):
        raise DatasetError(f"{path}: column {label_column!r} must hold integers (is {label})")


def _metadata(path: Path) -> pq.FileMetaData:
    try:
        return pq.read_metadata(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DatasetError(f"{path}: not a readable Parquet file ({error})") from error


def _num_classes(paths: Sequence[Path], label: str) -> int:
    """From the hub's description of the label column, or else from the labels."""
    description = (_metadata(paths[0]).schema.to_arrow_schema().metadata or {}).get(b"huggingface", b"{}")
    with contextlib.suppress(ValueError, LookupError, TypeError):  # another description than the hub's, or none
        return len(json.loads(description)["info"]["features"][label]["names"])
    largest = max(pc.max(pq.read_table(path, columns=[label])[label]).as_py() or 0 for path in paths)
    return int(largest) + 1


def _first_size(path: Path, config: ParquetConfig) -> tuple[int, int]:
    """(height, width) of the first image; of the first that has a header, where damaged ones are skipped."""
    image, damaged = config.image_column, None
    for row, batch in enumerate(pq.ParquetFile(path).iter_batches(1, columns=[f"{image}.bytes"])):
        where = f"{path}: row {row}"
        try:
            return size_of(_bytes_of(batch.column(image).field("bytes")[0], image, where), where)
        except DamagedImageError as error:
            if config.on_error == "error":
                raise error.with_offer() from error.__cause__
            damaged = damaged or error
    raise damaged or DatasetError(f"{path}: no example in it")


def _bytes_of(encoded: pa.BinaryScalar, column: str, where: str) -> bytes:
    """The bytes of an image column's struct. Raises DamagedImageError where there are none."""
    content: bytes | None = encoded.as_py()
    if content is None:
        raise DamagedImageError(
            f"{where}, column {column!r}: no image (bytes is null; the image itself must be in the file, not its path)"
        )
    return content
