"""The user's own modules, which travel to the nodes of a cluster as Ray's runtime environment."""

from __future__ import annotations

import functools
import re
import site
import sys
import sysconfig
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from samtune.errors import UsageError
from samtune.raylib.environment import is_ray_job
from samtune.user_code import IMPORT_PATH, given_functions

MAX_MEGABYTES = 100


def own_modules(values: Iterable[Any]) -> list[str]:
    """What must be on every node for these values: the Python modules and packages beside those that they name.

    A module may import its neighbours, so all of its folder's travel, but nothing else of it: data and results stay.
    What is installed (with pip) is expected on the nodes.

    Args:
        values: of a space; import paths `package.module:function` among them name modules.

    Returns:
        Paths of files and packages, for Ray's `py_modules`.

    Raises:
        UsageError: together they are too large to travel.
    """
    words = {word for value in values if isinstance(value, str) for word in value.split(", ")}
    modules = {re.split("[.:]", word)[0] for word in words if re.fullmatch(IMPORT_PATH, word)}
    modules |= {_module_of(part) for part in given_functions(words).values()}
    folders = {folder for module in modules if (folder := _folder_of(module))}
    found = sorted(entry for folder in folders for entry in folder.iterdir() if _is_imported_from_here(entry))
    size = sum(_size(file) for entry in found for file in (entry.rglob("*") if entry.is_dir() else [entry]))
    if size > MAX_MEGABYTES * 2**20:
        raise UsageError(
            f"{', '.join(map(str, sorted(folders)))}: the Python code beside the space's own parts must travel to "
            f"the cluster, and is larger than {MAX_MEGABYTES} MB: keep it in a folder of its own, or install it there"
        )
    return [str(path) for path in found]


def _module_of(part: Any) -> str:
    """The top-level module of a function or class."""
    while isinstance(part, functools.partial):
        part = part.func
    return str(getattr(part, "__module__", "__main__")).partition(".")[0]


def _folder_of(module: str) -> Path | None:
    """The folder that a top-level module is imported from; None where it is installed, or not found."""
    if module == "__main__":  # is pickled by value, but what it imports is not
        file = getattr(sys.modules["__main__"], "__file__", None)
        folder = Path(file).absolute().parent if file else None
    else:
        spec = find_spec(module)
        if spec is None or not spec.has_location or spec.origin is None:  # built in, or without __init__.py
            return None
        path = Path(spec.origin)
        folder = (path.parent if spec.submodule_search_locations else path).parent
    installed = [*site.getsitepackages(), site.getusersitepackages(), *sysconfig.get_paths().values()]
    return None if folder is None or any(folder.is_relative_to(place) for place in installed) else folder


def _is_imported_from_here(entry: Path) -> bool:
    """Whether this file or folder is the module of its name: on the nodes it comes before one that is installed."""
    try:
        file = entry if entry.suffix == ".py" else entry / "__init__.py"
        if not file.is_file() or not entry.stem.isidentifier():
            return False
        spec = find_spec(entry.stem)
        return spec is not None and spec.origin is not None and Path(spec.origin).samefile(file)
    except (OSError, ValueError, ImportError):  # not readable, no module, or one that is half imported
        return False


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # a link to nowhere
        return 0


def runtime_env(values: Iterable[Any]) -> dict[str, Any]:
    """Ray's runtime environment for a search on a cluster; empty for one that is a Ray job, whose code is there."""
    if is_ray_job():
        return {}
    modules = own_modules(values)
    return {"py_modules": modules} if modules else {}
