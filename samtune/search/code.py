"""The user's own modules, which travel to the nodes of a cluster as Ray's runtime environment."""

from __future__ import annotations

import os
import re
import site
import sysconfig
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from samtune.errors import UsageError
from samtune.parts import given_parts

_IMPORT_PATH = re.compile(r"([A-Za-z_]\w*)(?:\.\w+)*:\w[\w.]*")
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
    modules = {name[1] for word in words if (name := _IMPORT_PATH.fullmatch(word))}
    modules |= {part.__module__.partition(".")[0] for part in given_parts(words).values()}  # pickled by reference
    folders = {folder for module in modules if (folder := _folder_of(module))}
    found = sorted(
        entry
        for folder in folders
        for entry in folder.iterdir()
        if entry.suffix == ".py" or (entry / "__init__.py").is_file()
    )
    size = sum(file.stat().st_size for entry in found for file in (entry.rglob("*") if entry.is_dir() else [entry]))
    if size > MAX_MEGABYTES * 2**20:
        raise UsageError(
            f"{', '.join(map(str, sorted(folders)))}: the Python code beside the space's own parts must travel to "
            f"the cluster, and is larger than {MAX_MEGABYTES} MB: keep it in a folder of its own, or install it there"
        )
    return [str(path) for path in found]


def _folder_of(module: str) -> Path | None:
    """The folder that a top-level module is imported from; None where it is installed, or not found."""
    try:
        spec = find_spec(module)
    except ValueError:  # __main__, which is pickled by value
        return None
    if spec is None or spec.origin is None:  # built in, or a folder without __init__.py
        return None
    path = Path(spec.origin)
    folder = (path.parent if spec.submodule_search_locations else path).parent
    installed = [*site.getsitepackages(), site.getusersitepackages(), *sysconfig.get_paths().values()]
    return None if any(folder.is_relative_to(place) for place in installed) else folder


def runtime_env(values: Iterable[Any]) -> dict[str, Any]:
    """Ray's runtime environment for a search on a cluster; empty for one that is a Ray job, whose code is there."""
    if os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"):
        return {}
    modules = own_modules(values)
    return {"py_modules": modules} if modules else {}
