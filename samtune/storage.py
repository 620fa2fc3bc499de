"""File systems by path or URI, through pyarrow: local folders, s3://, gs://."""

from __future__ import annotations

from pathlib import Path

import pyarrow.fs as pafs


def open_storage(uri: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a path or URI, and the path within it.

    Raises:
        ValueError: (pyarrow's) for a scheme that it does not know.
    """
    if "://" in uri:
        filesystem, path = pafs.FileSystem.from_uri(uri)
        return filesystem, path
    return pafs.LocalFileSystem(), str(Path(uri).absolute())


def delete_folder(uri: str) -> None:
    """Removes a folder with all it holds; nothing happens where there is none."""
    filesystem, path = open_storage(uri)
    if filesystem.get_file_info(path).type == pafs.FileType.Directory:
        filesystem.delete_dir(path)


def join(uri: str, *parts: str) -> str:
    """A path below a path or URI."""
    return "/".join([uri.rstrip("/"), *parts])
