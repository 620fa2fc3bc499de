"""Decoded images, once per machine: a memory-mapped Arrow file of uint8 that all workers share.

The file is one record batch of a fixed-size binary column `image` (C*H*W bytes) and an int64 column `label`. Its name
holds a hash of all that its content depends on: the source files (path, size, modification time), the shape, the
version of this format. It is written beside its final name under a lock and renamed when it is complete, so a file
under the final name is never half-written, however many workers start together or die. A checksum of all that is read
from it is part of it; every process compares it once, and a file whose bits have changed is built again.

Building a file needs no torch: the driver does it before any worker starts.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import mmap
import os
import re
import shutil
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from filelock import FileLock

from samtune.data.sources.base import DataSource, ImageArray, LabelArray, SplitName
from samtune.errors import DatasetError, RunError, is_machine_fault, one_line
from samtune.formatting import format_bytes
from samtune.storage import cache_folder

if TYPE_CHECKING:
    from torch import Tensor

_VERSION = 2  # of the file's layout and of the decoding: raise it when either changes
_log = logging.getLogger(__name__)
Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel."""
_DAMAGE = (pa.ArrowException, ValueError, LookupError, TypeError, AttributeError, OverflowError, OSError)
"""What parsing a file may raise whose bits have changed."""
_Content = tuple[ImageArray, LabelArray, Statistics]


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


def load_arrays(source: DataSource, split: SplitName, name: str) -> Arrays:
    """All examples of a split; decoded by whoever comes first, mapped from the shared file by everyone.

    Args:
        source: the data set.
        name: of the data set, for the file's name.

    Raises:
        DatasetError: the source is damaged, or the cache cannot be written.
    """
    import torch

    path = cache_path(source, split, name)
    if path is None:
        images, labels = source.read(split)
        statistics = channel_statistics(images)
    else:
        images, labels, statistics = _read_or_build(path, source, split)
    return Arrays(torch.from_numpy(images), torch.from_numpy(labels), *statistics)


def build_cache(source: DataSource, split: SplitName, name: str) -> None:
    """Makes sure that the decoded split is on this machine, whole and undamaged.

    Raises:
        DatasetError: the source is damaged, or the cache cannot be written.
    """
    path = cache_path(source, split, name)
    if path is not None:
        _read_or_build(path, source, split)


def cache_path(source: DataSource, split: SplitName, name: str) -> Path | None:
    """Where the decoded split is or will be; None when it needs no cache because it has no files of its own."""
    if not source.files(split):
        return None
    files = [_stamp(path) for path in source.files(split)]
    content = json.dumps([_VERSION, type(source).__name__, source.options, source.traits.shape, files])
    key = hashlib.sha256(content.encode()).hexdigest()[:20]
    safe = re.sub(r"[^\w-]", "_", name)
    with _explain_errors(Path("~/.cache/samtune")):
        folder = cache_folder()
    return folder / f"{safe}-{split}-v{_VERSION}-{key}.arrow"


def _stamp(path: Path) -> tuple[str, int, int]:
    """Tells whether a file has changed. A link to nowhere is an image that cannot be read, for `read` to report."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return str(path), 0, 0
    return str(path.resolve()), stat.st_size, stat.st_mtime_ns


def _read_or_build(path: Path, source: DataSource, split: SplitName) -> _Content:
    with _explain_errors(path.parent):
        content = _map(path, source.traits.shape)
        if content is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{path}.lock"):  # a builder that dies releases it
                # Another worker may have built it meanwhile; if not, it is this one that tells of the damage.
                content = _map(path, source.traits.shape, warn=True)
                if content is None:
                    _build(path, source, split)
                    content = _map(path, source.traits.shape)
    if content is None:
        raise DatasetError(f"{path}: cannot be read back just after it was written; is the disk damaged?")
    return content


@contextlib.contextmanager
def _explain_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        of_the_machine = is_machine_fault(error)
        kind, free = (RunError, _free(folder)) if of_the_machine else (DatasetError, "")
        raise kind(
            f"{folder}: the decoded images cannot be kept there ({error.strerror or error}{free}); "
            "set the environment variable SAMTUNE_CACHE to another folder"
        ) from error


def _free(folder: Path) -> str:
    """How much of the disk is free, for the message of one that is full; nothing where the folder is not there."""
    with contextlib.suppress(OSError):
        return f", {format_bytes(shutil.disk_usage(folder).free)} free"
    return ""


def _build(path: Path, source: DataSource, split: SplitName) -> None:
    """Decodes into `path`. To be called under the lock."""
    started = time.perf_counter()
    count = source.num_examples(split)
    _log.info("decoding the %d images of the %s set, once: they stay in %s", count, split, path.parent)
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


def _write(path: Path, images: ImageArray, labels: LabelArray) -> None:
    pixels = np.ascontiguousarray(images).reshape(len(images), -1)
    column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(pixels.shape[1]), len(pixels), [None, pa.py_buffer(pixels)])
    mean, std = channel_statistics(images)
    checksum = _checksum(pixels, labels, (mean, std))
    schema = pa.schema(
        [("image", column.type), ("label", pa.int64())],
        {"samtune": json.dumps({"mean": mean, "std": std, "checksum": checksum})},
    )
    batch = pa.RecordBatch.from_arrays([column, pa.array(labels)], schema=schema)
    with path.open("wb") as file:
        with pa.ipc.new_file(file, batch.schema) as writer:
            writer.write_batch(batch)
        file.flush()
        os.fsync(file.fileno())


def _map(path: Path, shape: tuple[int, ...], *, warn: bool = False) -> _Content | None:
    """The content of a cache file, or None when it is missing or damaged (then it is built again)."""
    try:
        with path.open("rb") as file:
            # Private: torch wants writable memory, and a page written by mistake must not reach the file.
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:  # an empty file
        damage: Exception = error
    else:
        try:
            return _parse(memory, shape)
        except _DAMAGE as error:
            damage = error
    if warn:
        _log.warning("%s is damaged and is built again (%s)", path, one_line(damage))
    return None


def _parse(memory: mmap.mmap, shape: tuple[int, ...]) -> _Content:
    """The content of a cache file's bytes; raises whatever damaged ones lead to."""
    buffer = pa.py_buffer(memory)
    batch = pa.ipc.open_file(pa.BufferReader(buffer)).get_batch(0)
    batch.validate()  # that no buffer ends before its column
    size = len(batch) * math.prod(shape)
    pixels, labels = batch.column("image").buffers()[1], batch.column("label").to_numpy().copy()
    if pixels.size < size or labels.dtype != np.int64:
        raise ValueError("its columns have other types")
    images = np.frombuffer(memory, dtype=np.uint8, count=size, offset=pixels.address - buffer.address)
    described = json.loads(batch.schema.metadata[b"samtune"])
    statistics = tuple(map(float, described["mean"])), tuple(map(float, described["std"]))
    if _checksum(images, labels, statistics) != described["checksum"]:
        raise ValueError("its checksum is wrong")
    return images.reshape(-1, *shape), labels, statistics


def _checksum(images: ImageArray, labels: LabelArray, statistics: Statistics) -> int:
    """CRC-32 of everything that is read from a file: it finds every change of up to 32 bits in a row."""
    found = zlib.crc32(np.ascontiguousarray(images).data)
    found = zlib.crc32(np.ascontiguousarray(labels).data, found)
    return zlib.crc32(json.dumps(statistics).encode(), found)


def channel_statistics(images: ImageArray) -> Statistics:
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
