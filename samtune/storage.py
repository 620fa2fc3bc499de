"""File systems by path or URI, through pyarrow: local folders, s3://, gs://."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pyarrow.fs as pafs

WEIGHTS = "weights"
"""The folder of a study that the weights of its trials are in."""


def cache_folder() -> Path:
    """This machine's cache of decoded images and remote files: `SAMTUNE_CACHE`, or `~/.cache/samtune`.

    Raises:
        OSError: it would be in the home directory, and there is none.
    """
    folder = os.environ.get("SAMTUNE_CACHE") or "~/.cache/samtune"
    try:
        return Path(folder).expanduser().absolute()
    except RuntimeError as error:
        raise FileNotFoundError(errno.ENOENT, "there is no home directory", folder) from error


def is_remote(uri: str | Path) -> bool:
    """Whether it is a URI, not a path of this machine's file system."""
    return "://" in str(uri)


def open_storage(uri: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a path or URI, and the path within it.

    Raises:
        ValueError: (pyarrow's) for a scheme that it does not know.
        OSError: the store does not answer.
    """
    if is_remote(uri):
        filesystem, path = pafs.FileSystem.from_uri(uri)
        return filesystem, path
    return pafs.LocalFileSystem(), str(Path(uri).absolute())


def join(uri: str, *parts: str) -> str:
    """A path below a path or URI; a URI's options (`s3://bucket/path?region=…`) stay at its end."""
    base, mark, options = uri.partition("?") if is_remote(uri) else (uri, "", "")
    return "/".join([base.rstrip("/"), *parts]) + mark + options


def parent(uri: str) -> str:
    """The folder that a path or URI is in."""
    base, mark, options = uri.partition("?") if is_remote(uri) else (uri, "", "")
    return base.rstrip("/").rpartition("/")[0] + mark + options


def is_file(uri: str) -> bool:
    """Whether there is a file of this name.

    Raises:
        ValueError: (pyarrow's) for a scheme that it does not know.
        OSError: the store does not answer.
    """
    filesystem, path = open_storage(uri)
    return bool(filesystem.get_file_info(path).is_file)


def read_bytes(uri: str) -> bytes | None:
    """The content of a file; None where there is none.

    Raises:
        OSError: it is there and cannot be read.
    """
    filesystem, path = open_storage(uri)
    try:
        with filesystem.open_input_stream(path) as stream:
            content: bytes = stream.read()
            return content
    except FileNotFoundError:
        return None


def write_bytes(uri: str, content: bytes) -> None:
    """Writes a file, whole or not at all: it gets its name when it is complete. Its folder is made where need be.

    Raises:
        OSError: the store does not take it; a file of that name is as it was.
    """
    filesystem, path = open_storage(uri)
    filesystem.create_dir(path.rpartition("/")[0], recursive=True)
    with filesystem.open_output_stream(f"{path}.part") as stream:
        stream.write(content)
    filesystem.move(f"{path}.part", path)


def trial_weights(study_folder: str, trial_id: str) -> str:
    """Where the workers write the weights of a completed trial."""
    return join(study_folder, WEIGHTS, f"{trial_id}.safetensors")


def file_names(uri: str) -> list[str]:
    """The names of the files in a folder; none where there is no folder. Raises OSError as the store does."""
    filesystem, path = open_storage(uri)
    found = filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    return [info.base_name for info in found if info.is_file]


def delete_file(uri: str) -> None:
    """Removes a file; nothing happens where there is none."""
    filesystem, path = open_storage(uri)
    if filesystem.get_file_info(path).type == pafs.FileType.File:
        filesystem.delete_file(path)


def delete_folder(uri: str) -> None:
    """Removes a folder with all it holds; nothing happens where there is none."""
    filesystem, path = open_storage(uri)
    if filesystem.get_file_info(path).type == pafs.FileType.Directory:
        filesystem.delete_dir(path)
