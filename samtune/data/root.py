"""Where data are looked for: a folder, or a copy of the Parquet files in remote storage, made once per machine."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pyarrow.fs as pafs
from filelock import FileLock

from samtune.errors import DatasetError, one_line
from samtune.storage import cache_folder, is_remote, open_storage


def root_folder(root: str) -> Path:
    """`root` of a configuration as an absolute path; of a remote one, this machine's copy of its Parquet files.

    Raises:
        DatasetError: the store does not answer, or holds no Parquet file there.
    """
    return local_copy(root) if is_remote(root) else Path(root).expanduser().absolute()


def local_copy(root: str) -> Path:
    """A folder of this machine's cache with the Parquet files of a remote one.

    Every file is copied by whoever comes first, and again when it was changed there.

    Args:
        root: a URI such as s3://bucket/path or gs://bucket/path.

    Raises:
        DatasetError: the store does not answer, or holds no Parquet file there.
    """
    try:
        folder = cache_folder() / "parquet" / hashlib.sha256(root.encode()).hexdigest()[:20]
        filesystem, path = open_storage(root)
        found = filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True))
        files = [info for info in found if info.base_name.endswith(".parquet")]
        if not files:
            raise DatasetError(f"no Parquet data set in {root}: no file there is named *.parquet")
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            for info in files:
                _copy(filesystem, info, folder / info.base_name)
            for name in {file.name for file in folder.glob("*.parquet")} - {info.base_name for info in files}:
                (folder / name).unlink()  # no longer there
    except (OSError, ValueError) as error:  # pyarrow's ValueErrors are about the URI
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"data.root {root}: cannot be read: {one_line(error, 300)}") from error
    return folder


def _copy(filesystem: pafs.FileSystem, info: pafs.FileInfo, target: Path) -> None:
    """Copies a file that is not there as it is in the store. To be called under the lock."""
    known = target.stat() if target.exists() else None
    if known and (known.st_size, known.st_mtime_ns) == (info.size, info.mtime_ns):
        return
    temporary = target.with_name(f"{target.name}.part")
    pafs.copy_files(info.path, str(temporary), source_filesystem=filesystem)
    os.utime(temporary, ns=(info.mtime_ns, info.mtime_ns))  # how a change is known
    temporary.replace(target)
