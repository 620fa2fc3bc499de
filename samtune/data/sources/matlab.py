"""Reading MATLAB files with one clear error."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from samtune.errors import DatasetError


def read_matlab(function: Literal["whosmat", "loadmat"], path: Path, **options: Any) -> Any:
    """The result of SciPy's function of that name.

    Raises:
        DatasetError: the file is missing or damaged.
    """
    import scipy.io  # type: ignore[import-untyped,unused-ignore]

    try:
        return getattr(scipy.io, function)(path, **options)
    except Exception as error:  # SciPy raises errors of many kinds on damaged files, zlib's among them
        raise DatasetError(f"{path}: not a readable MATLAB file ({error})") from error
