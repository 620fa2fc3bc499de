"""Decoded images, once per machine: a memory-mapped Arrow file of uint8 that all workers share.

The file is one record batch of a fixed-size binary column `image` (C*H*W bytes) and an int64 column `label`. Its name
holds a hash of all that its content depends on: the source files (path, size, modification time), the shape, the
version of this format. It is written beside its final name under a lock and renamed when it is complete, so a file
under the final name is never half-written, however many workers start together or die.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import mmap
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from filelock import FileLock
from torch import Tensor

from samtune.data.sources.base import Images, Labels, Source, SplitName
from samtune.errors import DatasetError
from samtune.storage import cache_folder

_VERSION = 2  # of the file's layout and of the decoding: raise it when either changes
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Arrays:
    """All examples of a split of a data set."""

    images: Tensor
    """uint8 [N, C, H, W]: pages of the cache file, shared by all processes of the machine, or a plain array."""
    labels: Tensor
    """int64 [N]."""
    mean: tuple[float, ...]
    """Mean of each channel, pixels in [0, 1]."""
    std: tuple[float, ...]
    """Standard deviation of each channel."""


def load_arrays(source: Source, split: SplitName, name: str) -> Arrays:
    """All examples of a split; decoded by whoever comes first, mapped from the shared file by everyone.

    Args:
        source: the data set.
        name: of the data set, for the file's name.

    Raises:
        DatasetError: the source is damaged, or the cache cannot be written.
    """
    path = cache_path(source, split, name)
    if path is None:
        images, labels = source.read(split)
        return Arrays(torch.from_numpy(images), torch.from_numpy(labels), *channel_statistics(images))
    with _explain_errors(path.parent):
        mapped = _map(path, source.traits.shape)
        if mapped is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{path}.lock"):  # a builder that dies releases it
                mapped = _map(path, source.traits.shape)  # another worker may have built it meanwhile
                if mapped is None:
                    _build(path, source, split)
                    mapped = _map(path, source.traits.shape)
    if mapped is None:
        raise DatasetError(f"{path}: cannot be read back just after it was written; is the disk damaged?")
    return mapped


def cache_path(source: Source, split: SplitName, name: str) -> Path | None:
    """Where the decoded split is or will be; None when it needs no cache because it has no files of its own."""
    if not source.files(split):
        return None
    files = [_stamp(path) for path in source.files(split)]
    content = json.dumps([_VERSION, type(source).__name__, source.options, source.traits.shape, files])
    key = hashlib.sha256(content.encode()).hexdigest()[:20]
    safe = re.sub(r"[^\w-]", "_", name)
    return cache_folder() / f"{safe}-{split}-v{_VERSION}-{key}.arrow"


def _stamp(path: Path) -> tuple[str, int, int]:
    """Tells whether a file has changed. A link to nowhere is an image that cannot be read, for `read` to report."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return str(path), 0, 0
    return str(path.resolve()), stat.st_size, stat.st_mtime_ns


@contextlib.contextmanager
def _explain_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DatasetError(
            f"{folder}: the decoded images cannot be kept there ({error.strerror or error}); "
            "set the environment variable SAMTUNE_CACHE to another folder"
        ) from error


def _build(path: Path, source: Source, split: SplitName) -> None:
    """Decodes into `path`. To be called under the lock."""
    started = time.perf_counter()
    for leftover in path.parent.glob(f"{path.name}.*.tmp"):  # of a builder that died
        leftover.unlink()
    _remove_other_versions(path)
    images, labels = source.read(split)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        _write(temporary, images, labels)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _log.info("decoded %d images into %s in %.1f s", len(labels), path, time.perf_counter() - started)


def _remove_other_versions(path: Path) -> None:
    """Deletes what other versions of samtune decoded of this split: it would never be read again.

    A process that still has one of them open keeps its pages. Files of this version stay: another configuration's.
    """
    dataset, split, version, _ = path.name.rsplit("-", 3)
    for old in path.parent.glob(f"{dataset}-{split}-*.arrow*"):
        rest = old.name.removeprefix(f"{dataset}-{split}-")
        if not rest.startswith(f"{version}-"):
            _log.info("removing %s, of another version", old)
            old.unlink(missing_ok=True)


def _write(path: Path, images: Images, labels: Labels) -> None:
    pixels = np.ascontiguousarray(images).reshape(len(images), -1)
    column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(pixels.shape[1]), len(pixels), [None, pa.py_buffer(pixels)])
    mean, std = channel_statistics(images)
    schema = pa.schema(
        [("image", column.type), ("label", pa.int64())], {"samtune": json.dumps({"mean": mean, "std": std})}
    )
    batch = pa.RecordBatch.from_arrays([column, pa.array(labels)], schema=schema)
    with path.open("wb") as file:
        with pa.ipc.new_file(file, batch.schema) as writer:
            writer.write_batch(batch)
        file.flush()
        os.fsync(file.fileno())


def _map(path: Path, shape: tuple[int, ...]) -> Arrays | None:
    """The content of a cache file, or None when it is missing or damaged (then it is built again)."""
    try:
        with path.open("rb") as file:
            # Private: torch wants writable memory, and a page written by mistake must not reach the file.
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: an empty file
        return None
    try:
        buffer = pa.py_buffer(memory)
        batch = pa.ipc.open_file(pa.BufferReader(buffer)).get_batch(0)
    except (pa.ArrowInvalid, OSError) as error:
        _log.warning("%s is damaged and will be built again (%s)", path, error)
        return None
    pixels = batch.column("image").buffers()[1]
    size = len(batch) * shape[0] * shape[1] * shape[2]
    images = torch.frombuffer(memory, dtype=torch.uint8, count=size, offset=pixels.address - buffer.address)
    labels = torch.from_numpy(batch.column("label").to_numpy().copy())
    statistics = json.loads(batch.schema.metadata[b"samtune"])
    return Arrays(images.view(-1, *shape), labels, tuple(statistics["mean"]), tuple(statistics["std"]))


def channel_statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 [N, C, H, W], pixels in [0, 1]; exact sums."""
    levels = np.arange(256) / 255
    means, deviations = [], []
    for channel in range(images.shape[1]):
        counts = np.zeros(256, dtype=np.int64)
        for part in np.array_split(images, 64):
            counts += np.bincount(part[:, channel].ravel(), minlength=256)
        mean = float(counts @ levels / counts.sum())
        means.append(mean)
        deviations.append(float(np.sqrt(counts @ (levels - mean) ** 2 / counts.sum())))
    return tuple(means), tuple(deviations)
