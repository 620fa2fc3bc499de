"""What a function's source alone shows: it is neither imported nor called.

A search space may be a stranger's. `--dry-run` and `validate` say which file each of its functions is in, and find
most mistakes, while nothing of it runs.
"""

from __future__ import annotations

import ast
import inspect
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from samtune.errors import UsageError
from samtune.user_code import PREFIX, check_function, file_of, functions_in
from samtune.user_path import find_module, module_of


@dataclass(frozen=True)
class UserFunction:
    """A function that a configuration names.

    Attributes:
        key: the dotted key that names it.
        path: `package.module:function`.
        where: the file that it would come from, or that it is built into Python, or not found.
    """

    key: str
    path: str
    where: str

    def __str__(self) -> str:
        return f"{self.key} {self.path} ({self.where})"


def named_functions(tree: Mapping[str, Any]) -> list[UserFunction]:
    """The functions that nested keys and values name by import path, and where each would come from."""
    return [UserFunction(key, path, _where(path)) for key, path in functions_in(tree)]


def check_named(tree: Mapping[str, Any]) -> None:
    """Makes sure, as far as their source tells, that the functions of nested keys and values are there.

    Raises:
        UsageError: one is not.
    """
    for key, path in functions_in(tree):
        _find(path, key)


def look_up(path: str, key: str, *args: Any, **kwargs: Any) -> None:
    """Makes sure, as far as its source tells, that a function is there and takes these arguments.

    Args:
        path: `package.module:function`.
        key: the dotted key that names it, for messages.

    Raises:
        UsageError: it is not, or does not.
    """
    if path.startswith(PREFIX):  # an object of this process
        check_function(path, key, *args, **kwargs)
        return
    found = _find(path, key)
    if isinstance(found, ast.FunctionDef) and not found.decorator_list:
        _check_call(_signature(found.args), path, key, args, kwargs)


def constructor_options(path: str) -> list[str] | None:
    """The keyword arguments of a class's constructor, as its source has them.

    Args:
        path: `package.module:class`.

    Returns:
        None where the source does not tell, or takes any.
    """
    try:
        found = _find(path, path)
    except UsageError:
        return None
    if not isinstance(found, ast.ClassDef):
        return None
    defined = [node for node in found.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    if not defined or defined[-1].args.kwarg is not None:
        return None
    arguments = defined[-1].args
    return [each.arg for each in (*arguments.args[1:], *arguments.kwonlyargs)]


def _find(path: str, key: str) -> ast.AST | None:
    """What the module binds to the name last; None where its source does not tell. Raises as `look_up` does."""
    module, name = module_of(path), path.partition(":")[2]
    file = file_of(path)
    if file is not None and (os.path.isfile(file) or "/" in file):
        return _bound(_parse(os.path.abspath(file), key, path), name, path, key, file)
    spec = find_module(module)
    if spec is None:
        raise UsageError(
            f"{key}: {path}: cannot be imported: No module named {module!r}; is its folder on the path (PYTHONPATH)?"
        )
    return _bound(_parse(spec.origin or "", key, path), name, path, key, spec.origin)


def _bound(tree: ast.Module | None, name: str, path: str, key: str, file: str | None) -> ast.AST | None:
    """What a module's source binds to a name last. Raises as `look_up` does."""
    if tree is None:
        return None  # no Python source
    found = list(_bindings(tree, name))
    if not found:
        if not _is_dynamic(tree):
            raise UsageError(f"{key}: {path}: cannot be imported: {file} has no {name}")
        return None
    if isinstance(found[-1], ast.Constant):
        kind = type(found[-1].value).__name__
        raise UsageError(f"{key}: {path} must be a function or a class (it is of type {kind})")
    return found[-1]


def _where(path: str) -> str:
    file = file_of(path)
    if file is not None and (os.path.isfile(file) or "/" in file):
        return os.path.abspath(file) if os.path.isfile(file) else "not found"
    spec = find_module(module_of(path))
    if spec is None:
        return "not found"
    return spec.origin if spec.has_location and spec.origin else "built into Python"


@lru_cache(maxsize=32)
def _parse(file: str, key: str, path: str) -> ast.Module | None:
    if not file.endswith(".py"):
        return None
    try:
        with open(file, "rb") as source:
            return ast.parse(source.read(), file)
    except OSError as error:
        raise UsageError(f"{key}: {path} cannot be imported: {file}: {error.strerror}") from error
    except (SyntaxError, ValueError, RecursionError) as error:
        raise UsageError(f"{key}: {path} cannot be imported: {type(error).__name__}: {error}") from error


def _bindings(tree: ast.AST, name: str) -> Iterator[ast.AST]:
    """What a module binds to a name, in order: definitions, assigned values, imports. Looks into `if` and `try`."""
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                if node.name == name:
                    yield node
                continue  # what is inside is not the module's
            case ast.Import() | ast.ImportFrom():
                if any((alias.asname or alias.name.partition(".")[0]) == name for alias in node.names):
                    yield node
            case ast.Assign(targets=[ast.Name(id=target)], value=value) if target == name:
                yield value
                continue
            case ast.Name(id=target, ctx=ast.Store()) if target == name:  # unpacked, annotated, in a loop
                yield node
        yield from _bindings(node, name)


def _is_dynamic(tree: ast.Module) -> bool:
    """Whether a module may have names that its source does not show."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            return True
        if isinstance(node, ast.FunctionDef) and node.name == "__getattr__":
            return True
        if isinstance(node, ast.Name) and node.id in ("globals", "__getattr__", "setattr", "exec", "vars"):
            return True
    return False


def _signature(arguments: ast.arguments) -> inspect.Signature:
    """The signature of a definition; its defaults are `...`."""
    parameter, kind = inspect.Parameter, inspect.Parameter
    positional = [
        *((each, kind.POSITIONAL_ONLY) for each in arguments.posonlyargs),
        *((each, kind.POSITIONAL_OR_KEYWORD) for each in arguments.args),
    ]
    required = len(positional) - len(arguments.defaults)
    parameters = [
        parameter(each.arg, how, default=... if index >= required else kind.empty)
        for index, (each, how) in enumerate(positional)
    ]
    if arguments.vararg:
        parameters.append(parameter(arguments.vararg.arg, kind.VAR_POSITIONAL))
    for each, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        parameters.append(parameter(each.arg, kind.KEYWORD_ONLY, default=kind.empty if default is None else ...))
    if arguments.kwarg:
        parameters.append(parameter(arguments.kwarg.arg, kind.VAR_KEYWORD))
    return inspect.Signature(parameters)


def _check_call(
    signature: inspect.Signature, path: str, key: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        given = ", ".join([*("…" for _ in args), *(f"{name}=…" for name in kwargs)])
        raise UsageError(f"{key}: {path} cannot be called with ({given}): {error}") from error
