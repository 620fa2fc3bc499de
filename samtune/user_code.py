"""The user's own networks, data, losses and metrics: functions named by import path, `package.module:function`.

In Python the functions themselves may stand in a space, or be given to `Tuner`. They get a path too, `given:make_net`,
and travel to the workers as Ray pickles them; a study that is resumed must be given them again, or the script that
they are in.
"""

from __future__ import annotations

import inspect
import os
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pkgutil import resolve_name
from typing import Any

from samtune.errors import UsageError
from samtune.user_path import import_file, importing_user_code, place_of

IMPORT_PATH = r"[A-Za-z_][\w.]*:[A-Za-z_]\w*"
"""How a function is named, `package.module:function`, as a regular expression."""

FILE_PATH = r"(?:[^:,]*/)?[A-Za-z_]\w*\.py:[A-Za-z_]\w*"
"""How a function in a Python file is named, `folder/file.py:function`, as a regular expression."""

PREFIX = "given:"
"""Begins the path of an object that this process was given."""
_given: dict[str, Callable[..., Any]] = {}
_scripts: list[str] = []
"""The files that were named for such objects, in this process."""
_imported_script: str | None = None
"""The one that is being imported."""


def name_function(part: Any, kind: str) -> str:
    """Remembers a function (or class) of the user's in this process.

    Args:
        part: also a pair (train, test) of data, which becomes a function that returns it.
        kind: its name where it has none of its own.

    Returns:
        The path by which `resolve_function` finds it.
    """
    function = part if callable(part) else lambda: part
    name = getattr(part, "__name__", type(part).__name__ if kind == "metrics" else kind)
    path = PREFIX + (name if name.isidentifier() else kind)
    _given[path] = function
    return path


def with_names(tree: Any, kind: str = "part") -> Any:
    """A copy of nested keys and values with every function in it replaced by its path.

    The sections `model`, `data` and `method` may be a function or class themselves, `data` also a pair (train, test).
    """
    if isinstance(tree, Mapping):
        named = {key: with_names(value, str(key)) for key, value in tree.items()}
        for section in ("model", "data", "method"):
            if callable(tree.get(section)) or (section == "data" and isinstance(tree.get(section), tuple)):
                named[section] = {"name": name_function(tree[section], section)}
        return named
    if isinstance(tree, list):
        return [with_names(value, kind) for value in tree]
    return name_function(tree, kind) if callable(tree) else tree


def given_functions(values: Iterable[Any]) -> dict[str, Callable[..., Any]]:
    """The remembered functions that these values name; what workers need to resolve them."""
    words = {word for value in values if isinstance(value, str) for word in value.split(", ")}
    return {path: part for path, part in _given.items() if path in words}


def functions_in(tree: Any, prefix: str = "") -> list[tuple[str, str]]:
    """The import paths among nested keys and values, each once with the first dotted key that names it.

    An object that this process was given is no import path.
    """
    if isinstance(tree, Mapping):
        inner = [
            pair
            for key, value in tree.items()
            if not _is_config(key, tree)
            for pair in functions_in(value, f"{prefix}.{key}".lstrip("."))
        ]
    elif isinstance(tree, list | tuple):
        inner = [pair for index, value in enumerate(tree) for pair in functions_in(value, f"{prefix}.{index}")]
    else:
        names_one = isinstance(tree, str) and is_path(tree) and not tree.startswith(PREFIX)
        if names_one and _is_architecture(prefix, tree):
            return []
        # A source of `warm_start` looks like one: mlflow:EXPERIMENT.
        return [(prefix, tree)] if names_one and not prefix.startswith("warm_start") else []
    first: dict[str, str] = {}
    for key, path in inner:
        first.setdefault(path, key)
    return [(key, path) for path, key in first.items()]


def is_path(text: str) -> bool:
    """Whether a text names a function: `package.module:function` or `folder/file.py:function`."""
    return re.fullmatch(f"{IMPORT_PATH}|{FILE_PATH}", text) is not None


def file_of(path: str) -> str | None:
    """The Python file that a function's path names, if it does not name a module."""
    return path.partition(":")[0] if re.fullmatch(FILE_PATH, path) else None


def absolute_path(path: str, folder: str) -> str:
    """The path of a function with that of its file made absolute, which is relative to a folder."""
    file = file_of(path)
    if file is None:
        return path
    return f"{os.path.abspath(os.path.join(folder, os.path.expanduser(file)))}:{path.partition(':')[2]}"


def _is_config(key: str, tree: Mapping[str, Any]) -> bool:
    """Whether a key holds what a training function of the user's reads: nothing in it is imported but by that."""
    return (key == "config" and tree.get("train") is not None) or key.startswith("config.")


def _is_architecture(key: str, text: str) -> bool:
    """Whether a text under a key is a network of a library by its name there, which looks like a path."""
    return "model" in key.split(".") and text.startswith(("timm:", "transformers:"))


def given_in(tree: Any) -> Any:
    """Nested keys and values with the functions that this process was given in place of their paths."""
    if isinstance(tree, Mapping):
        return {key: given_in(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [given_in(value) for value in tree]
    return _given.get(tree, tree) if isinstance(tree, str) and tree.startswith(PREFIX) else tree


def accept_functions(parts: Mapping[str, Callable[..., Any]]) -> None:
    """Remembers what another process has named."""
    _given.update(parts)


def use_script(file: str) -> None:
    """Remembers what a study may have been given by a script: imports it, under its own name, not as `__main__`.

    What it puts into a `SearchSpace` at its top level goes by the same paths as before; else functions and classes at
    its top level go by their names.

    Raises:
        UsageError: it is not there, or cannot be imported.
    """
    global _imported_script
    if not os.path.isfile(file):
        raise UsageError("is not there, or no file", argument="code", value=file)
    before, _imported_script = _imported_script, file
    try:
        module = import_file(file)
    except UsageError:
        raise
    except Exception as error:  # whatever it raises
        place = place_of(error) or file
        raise UsageError(f"{place}: {type(error).__name__}: {error}", argument="code", value=file) from error
    finally:
        _imported_script = before
    _scripts.append(file)
    for name, part in vars(module).items():
        if callable(part) and name.isidentifier() and not name.startswith("__"):
            _given.setdefault(PREFIX + name, part)


def refuse_within_script() -> None:
    """Raises UsageError where a script that is imported for its functions starts a study of its own."""
    if _imported_script is not None:
        raise UsageError(
            'it starts a study as it is imported: put that below `if __name__ == "__main__":`',
            argument="code",
            value=_imported_script,
        )


def resolve_function(path: str, key: str) -> Callable[..., Any]:
    """The function (or class) of an import path.

    Args:
        path: `package.module:function` or `folder/file.py:function`.
        key: the dotted key that names it, for messages.

    Raises:
        UsageError: it cannot be imported, or cannot be called.
    """
    if path in _given:
        return _given[path]
    if path.startswith(PREFIX):
        if _scripts:
            raise UsageError(f"{key}: {path} is neither at the top level of {_scripts[-1]} nor in a space there")
        raise UsageError(
            f"{key}: {path} is a Python object of the process that began the study; name the script that it is in, "
            "--code my_script.py, or in Python give it again"
        )
    try:
        if (file := file_of(path)) is not None:
            part = getattr(import_file(file), path.partition(":")[2])
        else:
            with importing_user_code(path):
                part = resolve_name(path)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{key}: {path} cannot be imported: {error}; is its folder on the path (PYTHONPATH)?"
        ) from error
    except Exception as error:  # whatever the user's module raises while it is imported
        raise UsageError(f"{key}: {path} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(part):
        raise UsageError(f"{key}: {path} must be a function or a class (it is of type {type(part).__name__})")
    found: Callable[..., Any] = part
    return found


def check_function(path: str, key: str, *args: Any, **kwargs: Any) -> None:
    """Makes sure that a part can be imported and takes these arguments; it is not called.

    Raises:
        UsageError: it cannot, or does not.
    """
    part = resolve_function(path, key)
    try:
        signature = inspect.signature(part)
    except (TypeError, ValueError):  # built in C: only a call would tell
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        given = ", ".join([*("…" for _ in args), *(f"{name}=…" for name in kwargs)])
        raise UsageError(f"{key}: {path}{signature} cannot be called with ({given}): {error}") from error


def argument_names(part: Callable[..., Any]) -> list[str]:
    """The arguments by name of a function, or of the constructors of a class and of its bases."""
    functions: list[Callable[..., Any]] = [part]
    if is_class := isinstance(part, type):
        functions = [vars(base)["__init__"] for base in part.__mro__ if "__init__" in vars(base)]
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    names: dict[str, None] = {}
    for function in functions:
        with suppress(TypeError, ValueError):  # built in C
            parameters = list(inspect.signature(function).parameters.values())[is_class:]
            names |= {each.name: None for each in parameters if each.kind not in variable}
    return list(names)


def takes_option(cls: type, name: str) -> bool:
    """Whether a class may use a keyword argument of its constructor.

    One that takes any (`**options`) uses those that a base's constructor has by name, and those whose name is a text
    in its code, as in `options.pop("beta")` or `group.get("cautious")`.
    """
    if name in argument_names(cls):
        return True
    members = (member for base in cls.__mro__ for member in vars(base).values())
    return any(name in _texts(member.__code__) for member in members if isinstance(member, types.FunctionType))


def _texts(code: types.CodeType) -> Iterator[str]:
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _texts(constant)
        elif isinstance(constant, str | tuple):
            yield from [constant] if isinstance(constant, str) else (each for each in constant if isinstance(each, str))
