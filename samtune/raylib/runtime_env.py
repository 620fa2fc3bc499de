"""The user's own modules, which travel to the nodes of a cluster as Ray's runtime environment."""

from __future__ import annotations

import atexit
import functools
import re
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from samtune.errors import UsageError, one_line
from samtune.raylib.environment import is_ray_job
from samtune.user_code import IMPORT_PATH, file_of, given_functions
from samtune.user_path import add_user_folders, find_module, is_installed

MAX_MEGABYTES = 100


def own_modules(values: Iterable[Any]) -> list[str]:
    """What must be on every node for these values: the Python modules and packages beside those that they name.

    A module may import its neighbours, so all of its folder's travel, but nothing else of it: data and results stay.
    What is installed (with pip) is expected on the nodes. Of a package travel its Python files, and what
    `package-data` names (see `own_files`): no keys, configurations and data that happen to lie in its folder.

    Args:
        values: of a space; import paths `package.module:function` among them name modules.

    Returns:
        Paths of files and packages, for Ray's `py_modules`; of a package that holds more than what travels, a copy.

    Raises:
        UsageError: together they are too large to travel.
    """
    entries = _entries(values)
    travel = {entry: _files_of(entry) for entry in entries}
    size = sum(_size(file) for files in travel.values() for file in files)
    if size > MAX_MEGABYTES * 2**20:
        folders = sorted({str(entry.parent) for entry in entries})
        raise UsageError(
            f"{', '.join(folders)}: the Python code beside the space's own parts must travel to "
            f"the cluster, and is larger than {MAX_MEGABYTES} MB: keep it in a folder of its own, or install it there"
        )
    return [str(_only(entry, files)) for entry, files in travel.items()]


def own_files(values: Iterable[Any]) -> list[Path]:
    """Every file that travels for these values: Python files, and what a `pyproject.toml` names.

    That is `package-data` in its table `tool.samtune` or `tool.setuptools`: patterns of files in a package, by the
    package's name, or by "*" for all; it is looked for beside the package and in the folder above.

    Raises:
        UsageError: such a file is damaged.
    """
    return [file for entry in _entries(values) for file in _files_of(entry)]


def _entries(values: Iterable[Any]) -> list[Path]:
    """The modules and packages."""
    words = {word for value in values if isinstance(value, str) for word in value.split(", ")}
    files = {Path(file).absolute() for word in words if (file := file_of(word)) is not None}
    modules = {re.split("[.:]", w)[0] for w in words if re.fullmatch(IMPORT_PATH, w) and file_of(w) is None}
    modules |= {_module_of(part) for part in given_functions(words).values()}
    modules |= {file.stem for file in files if not file.is_file()}  # somewhere else on the path
    folders = {folder for module in modules if (folder := _folder_of(module))}
    there = {file for file in files if file.is_file()}
    beside = {file.parent for file in there}
    add_user_folders(map(str, beside))
    found = {entry for folder in folders | beside for entry in folder.iterdir() if _is_imported_from_here(entry)}
    return sorted(found | there)


def _files_of(entry: Path) -> list[Path]:
    """What travels of a module or package. A link that leads out of its folder does not."""
    if not entry.is_dir():
        return [entry]
    patterns = ["**/*.py", *_package_data(entry)]
    found = {file for pattern in patterns for file in entry.glob(pattern) if file.is_file()}
    home = entry.parent.resolve()
    return sorted(file for file in found if file.resolve().is_relative_to(home))


def _package_data(package: Path) -> list[str]:
    for folder in (package.parent, package.parent.parent):
        file = folder / "pyproject.toml"
        try:
            tools = tomllib.loads(file.read_text(encoding="utf-8")).get("tool", {})
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise UsageError(f"{file}: cannot be read: {one_line(error)}") from error
        tables = [tools.get(tool, {}).get("package-data", {}) for tool in ("samtune", "setuptools")]
        named = [pattern for table in tables for name in (package.name, "*") for pattern in table.get(name, [])]
        return [pattern for pattern in named if not Path(pattern).is_absolute() and ".." not in Path(pattern).parts]
    return []


def _only(entry: Path, files: list[Path]) -> Path:
    """A package as it is where all of it travels, else a copy of what does, which this process removes at its end."""
    if not entry.is_dir() or {*entry.rglob("*")} <= {*files, *(parent for file in files for parent in file.parents)}:
        return entry
    copies = Path(tempfile.mkdtemp(prefix="samtune-code-"))
    atexit.register(shutil.rmtree, copies, ignore_errors=True)
    for file in files:
        target = copies / file.relative_to(entry.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    return copies / entry.name


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
        spec = find_module(module)
        if spec is None or not spec.has_location or spec.origin is None:  # built in, or without __init__.py
            return None
        path = Path(spec.origin)
        folder = (path.parent if spec.submodule_search_locations else path).parent
    return None if folder is None or is_installed(str(folder)) else folder


def _is_imported_from_here(entry: Path) -> bool:
    """Whether this file or folder is the module of its name: on the nodes it comes before one that is installed."""
    try:
        file = entry if entry.suffix == ".py" else entry / "__init__.py"
        if not file.is_file() or not entry.stem.isidentifier():
            return False
        spec = find_module(entry.stem)
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
