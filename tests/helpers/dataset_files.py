"""Writers of small data sets in the formats they are really distributed in."""

from __future__ import annotations

import gzip
import io
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

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


def write_cifar100_python(root: Path, num_train: int = 200, num_test: int = 100) -> tuple[Array, Array]:
    """`cifar-100-python`, whose files hold coarse labels too."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    images = random_images(num_train + num_test, (3, 32, 32), 4)
    parts = images[:num_train], images[num_train:]
    for name, part in zip(("train", "test"), parts, strict=True):
        fine = cycling_labels(len(part), 100)
        labels = {"coarse_labels": (fine // 5).tolist(), "fine_labels": fine.tolist()}
        (folder / name).write_bytes(python2_pickle({"data": part.reshape(len(part), -1)}, labels))
    return parts


def write_idx(
    folder: Path, num_train: int = 60, num_test: int = 20, *, compressed: bool = False
) -> tuple[Array, Array]:
    """MNIST's four files."""
    folder.mkdir(parents=True)
    images = random_images(num_train + num_test, (1, 28, 28), 5)
    parts = images[:num_train], images[num_train:]
    for prefix, part in zip(("train", "t10k"), parts, strict=True):
        labels = cycling_labels(len(part)).astype(np.uint8)
        contents = {
            f"{prefix}-images-idx3-ubyte": struct.pack(">4B3I", 0, 0, 8, 3, len(part), 28, 28) + part.tobytes(),
            f"{prefix}-labels-idx1-ubyte": struct.pack(">4BI", 0, 0, 8, 1, len(part)) + labels.tobytes(),
        }
        for name, content in contents.items():
            if compressed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)
    return parts


def write_svhn(root: Path, counts: dict[str, int]) -> dict[str, Array]:
    """MATLAB files as the authors': X [32, 32, 3, N] and y [N, 1] in 1..10, 10 for the digit 0."""
    root.mkdir(parents=True, exist_ok=True)
    written = {}
    for seed, (name, count) in enumerate(counts.items()):
        images = random_images(count, (3, 32, 32), 10 + seed)
        labels = cycling_labels(count)
        labels[labels == 0] = 10
        content = {"X": images.transpose(2, 3, 1, 0), "y": labels.astype(np.uint8)[:, None]}
        savemat(root / f"{name}_32x32.mat", content, do_compression=True)
        written[name] = images
    return written


def write_folder(root: Path, counts: dict[str, int], shape: tuple[int, int, int] = (3, 20, 30)) -> None:
    """`ROOT/SPLIT/CLASS/*.png` for every `SPLIT/CLASS`; an image's pixels are all of one value, its place in order."""
    value = 0
    for name, count in counts.items():
        folder = root / name
        folder.mkdir(parents=True)
        for number in range(count):
            image = np.full(shape, value % 256, dtype=np.uint8)
            (folder / f"{number:03d}.png").write_bytes(encode(image))
            value += 1
