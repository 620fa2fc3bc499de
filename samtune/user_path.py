"""Where the user's own modules are found: in the working directory, and by the user's own code alone.

A working directory on `sys.path` would also answer the imports of libraries: a `redis.py` in it is run by whatever
library looks whether redis is installed. So the folder is not put there; a finder at the end of `sys.meta_path` looks
into it for modules that a space names, and for the imports of code that is not installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import site
import sys
import sysconfig
import threading
import traceback
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import CodeType, FrameType, ModuleType
from typing import Any

_SAMTUNE = os.path.dirname(os.path.abspath(__file__))
_folders: list[str] = []
_thread = threading.local()


def add_user_folders(folders: Iterable[str]) -> None:
    """Lets the user's code in this process be imported from these folders, after everything that is installed."""
    _folders.extend(folder for folder in map(os.path.abspath, folders) if folder not in _folders)
    if _FINDER not in sys.meta_path:
        sys.meta_path.append(_FINDER)


def user_folders() -> list[str]:
    """The folders that the user's modules are imported from in this process, for others to do the same."""
    on_path = [os.path.abspath(folder) for folder in sys.path if os.path.isdir(folder or ".")]
    return list(dict.fromkeys(folder for folder in [*on_path, *_folders] if not is_installed(folder)))


def is_beside_user_code() -> bool:
    """Whether samtune is not installed, but imported from the working directory or the script's folder."""
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    return os.path.dirname(_SAMTUNE) in (os.getcwd(), script and os.path.dirname(os.path.abspath(script)))


def import_file(file: str) -> ModuleType:
    """The module that a Python file is, imported once.

    It goes by its own name, and by another where that is some other module's (`test.py` is not Python's `test`). Where
    there is no such file, on another node of a cluster, it is the module of its name that has travelled there. What
    lies beside it can be imported too.

    Raises:
        ModuleNotFoundError: there is no such file, and no such module.
        Exception: whatever the module raises while it is imported.
    """
    file, name = os.path.abspath(file), os.path.basename(file).removesuffix(".py")
    add_user_folders([os.path.dirname(file)])
    if not os.path.exists(file):
        with importing_user_code(name):
            return importlib.import_module(name)
    for known in (name, f"{name}_{zlib.crc32(file.encode()):08x}"):
        module = sys.modules.get(known)
        if module is not None and _is_same(getattr(module, "__file__", None), file):
            return module
        found = find_module(known)
        if module is None and (found is None or _is_same(found.origin, file)):
            name = known
            break
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _is_same(one: str | None, other: str) -> bool:
    return one is not None and os.path.exists(one) and os.path.samefile(one, other)


@contextmanager
def importing_user_code(name: str | None = None) -> Iterator[None]:
    """In the body, a module that this thread imports may be the user's, whoever asks for it.

    Args:
        name: of the module, with or without what is in it; None: any.
    """
    before = getattr(_thread, "wanted", "")
    _thread.wanted = None if name is None else name.partition(":")[0].partition(".")[0]
    try:
        yield
    finally:
        _thread.wanted = before


def module_of(path: str) -> str:
    """The module of `package.module:function`; a file of the working directory may be meant, `module.py:function`."""
    return path.partition(":")[0].removesuffix(".py")


def is_installed(path: str) -> bool:
    """Whether a file is Python's, an installed library's or samtune's."""
    if "site-packages" in path or "dist-packages" in path:
        return True
    return any(path == place or path.startswith(place + os.sep) for place in _installed_places())


def shown_path(path: str) -> str:
    """A file of the user's as a message names it: from the folder on that its modules are imported from."""
    folders = sorted((f for f in user_folders() if path.startswith(f + os.sep)), key=len)
    return os.path.relpath(path, folders[-1]) if folders else os.path.basename(path)


def place_of(error: BaseException) -> str | None:
    """Where in the user's own files an error was, `my_loss.py:5 in focal`: the innermost line of them that it passed.

    Where it passed none itself, in its cause.
    """
    for cause in causes_of(error):
        frames = [pair for pair in traceback.walk_tb(cause.__traceback__) if _is_users(pair[0])]
        if frames:
            frame, line = frames[-1]
            return _named_place(frame.f_code, line)
    return None


def place_of_function(function: Any) -> str | None:
    """Where a function of the user's begins, `my_loss.py:3 in focal`; None where it is in none of the user's files."""
    code = getattr(function, "__code__", None)
    if code is None or is_installed(code.co_filename) or not code.co_filename.endswith(".py"):
        return None
    return _named_place(code, code.co_firstlineno)


def _named_place(code: CodeType, line: int) -> str:
    inside = "" if code.co_name == "<module>" else f" in {code.co_name}"
    return f"{shown_path(code.co_filename)}:{line}{inside}"


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """An error, and what it was raised from, one after another."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _is_users(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    # What torch.compile writes has no name that a reader could look up; Cython's frames (.pxi) have a library's.
    return file.endswith(".py") and "torchinductor_" not in file and not is_installed(file)


def find_module(name: str) -> ModuleSpec | None:
    """The module of a dotted name as an import would find it; neither it nor its packages are imported."""
    with importing_user_code(name):
        spec: ModuleSpec | None = None
        folders: Sequence[str] | None = None
        parts = name.split(".")
        for count in range(1, len(parts) + 1):
            full = ".".join(parts[:count])
            found = (finder.find_spec(full, folders, None) for finder in sys.meta_path if hasattr(finder, "find_spec"))
            spec = next((each for each in found if each is not None), None)
            if spec is None:
                return None
            folders = spec.submodule_search_locations
            if folders is None and count < len(parts):
                return None
    return spec


class _UserFinder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is not None or not (getattr(_thread, "wanted", "") in (None, fullname) or _imported_by_user()):
            return None
        return PathFinder.find_spec(fullname, _folders, target)


_FINDER = _UserFinder()


def _imported_by_user() -> bool:
    """Whether the import statement that is being carried out is in code that is not installed."""
    frame = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith("<frozen ") and not file.startswith(_import_machinery()):
            return not is_installed(file)
        frame = frame.f_back  # type: ignore[assignment]
    return False


@cache
def _import_machinery() -> tuple[str, ...]:
    library = sysconfig.get_path("stdlib")
    return (os.path.join(library, "importlib") + os.sep, os.path.join(library, "pkgutil.py"))


@cache
def _installed_places() -> tuple[str, ...]:
    places = [*site.getsitepackages(), site.getusersitepackages(), *sysconfig.get_paths().values(), _SAMTUNE]
    # Not the folder that the scripts are in: a user's own may be there.
    scripts = {sysconfig.get_path("scripts"), sysconfig.get_path("data")}
    return tuple(sorted({os.path.abspath(place) for place in places} - {os.path.abspath(each) for each in scripts}))
