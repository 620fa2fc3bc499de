"""Writers of small data sets in the formats they are really distributed in."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.uint8]


def random_images(count: int, shape: tuple[int, int, int], seed: int = 0) -> Array:
    """uint8 [count, C, H, W]."""
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def cycling_labels(count: int, num_classes: int = 10) -> NDArray[np.int64]:
    return np.arange(count, dtype=np.int64) % num_classes


def encode(image: Array, image_format: str = "PNG") -> bytes:
    """An image file of uint8 [C, H, W]."""
    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, image_format)
    return file.getvalue()


def write_parquet(
    path: Path, images: Array, labels: NDArray[np.int64], *, image: str = "img", label: str = "label"
) -> None:
    """One file as on the Hugging Face hub."""
    encoded = [{"bytes": encode(pixels), "path": f"{row}.png"} for row, pixels in enumerate(images)]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({image: encoded, label: labels}), path, row_group_size=7)


def write_cifar10_parquet(root: Path, num_train: int = 100, num_test: int = 20) -> tuple[Array, Array]:
    train, test = random_images(num_train, (3, 32, 32), 1), random_images(num_test, (3, 32, 32), 2)
    write_parquet(root / "train-00000-of-00001.parquet", train, cycling_labels(num_train))
    write_parquet(root / "test-00000-of-00001.parquet", test, cycling_labels(num_test))
    return train, test


def python2_pickle(arrays: dict[str, Array], lists: dict[str, list[int]]) -> bytes:
    """A dict as Python 2 and its NumPy pickled it (protocol 2, text and bytes are the same): CIFAR's batches."""

    def text(value: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(value)) + value

    def integer(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    out = b"\x80\x02}("
    for key, array in arrays.items():
        shape = b"(" + b"".join(map(integer, array.shape)) + b"t"
        dtype = b"cnumpy\ndtype\n(" + text(b"u1") + integer(0) + integer(1) + b"tR"
        dtype += b"(" + integer(3) + text(b"|") + b"NNN" + integer(-1) + integer(-1) + integer(0) + b"tb"
        out += text(key.encode()) + b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n"
        out += b"(" + integer(0) + b"t" + text(b"b") + b"tR"
        out += b"(" + integer(1) + shape + dtype + b"\x89" + text(array.tobytes()) + b"tb"
    for key, values in lists.items():
        out += text(key.encode()) + b"](" + b"".join(map(integer, values)) + b"e"
    return out + b"u."


def write_cifar10_python(root: Path, per_batch: int = 20) -> tuple[Array, Array]:
    """`cifar-10-batches-py` with five training batches and a test batch."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    images = random_images(6 * per_batch, (3, 32, 32), 3)
    labels = cycling_labels(per_batch)
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    for name, part in zip(names, np.split(images, 6), strict=True):
        content = python2_pickle({"data": part.reshape(per_batch, -1)}, {"labels": labels.tolist()})
        (folder / name).write_bytes(content)
    return images[: 5 * per_batch], images[5 * per_batch :]
