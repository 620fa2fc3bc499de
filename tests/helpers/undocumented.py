"""Checks names that a library does not document against the installed library."""

from __future__ import annotations

import ast
import inspect
import textwrap
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from samtune.undocumented import Undocumented, Variable


def problem_of(name: Undocumented) -> str | None:
    """What no longer fits, in one line; None where all does."""
    try:
        owner, found = _resolve(name.path)
        ours_owner, ours = _resolve(name.override) if name.override else (None, None)
    except (ImportError, AttributeError) as error:
        return f"{name.path}: is not there: {error} (needed: {name.why}; instead: {name.instead})"
    if ours_owner is not None and not (isinstance(owner, type) and issubclass(ours_owner, owner)):
        return f"{name.path}: {name.override} does not override it"
    if ours_owner is not None and ours is found:
        return f"{name.path}: {name.override} is the inherited one"
    for part, path in ((found, name.path), (ours, name.override)):
        if name.call is not None and part is not None:
            try:
                _bind(part, name.call)
            except TypeError as error:
                return f"{path}{inspect.signature(part)}: cannot be called with {name.call}: {error}"
    return None


def problem_of_variable(variable: Variable) -> str | None:
    """Whether the module that reads a variable still names it."""
    spec = find_spec(variable.module)
    if spec is None or spec.origin is None:
        return f"{variable.name}: {variable.module} is not there"
    if not spec.origin.endswith(".py"):
        is_there = variable.name.encode() + b"\0" in Path(spec.origin).read_bytes()  # a constant of C++
        return None if is_there else f"{variable.name}: {variable.module} does not name it any more"
    source = Path(spec.origin).read_text(encoding="utf-8")
    strings = {node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)}
    return None if variable.name in strings else f"{variable.name}: {variable.module} does not name it any more"


def _resolve(path: str) -> tuple[Any, Any]:
    """The owner of a name and what it names; of an attribute that a class sets on its instances, None."""
    module, _, names = path.partition(":")
    owner: Any = None
    found: Any = import_module(module)
    for name in names.split("."):
        owner = found
        if isinstance(owner, type) and not hasattr(owner, name) and name in _instance_attributes(owner):
            found = None
        else:
            found = getattr(owner, name)
    return owner, found


def _instance_attributes(cls: type) -> set[str]:
    """What the methods of a class and of its bases set on `self`."""
    found = set()
    for base in cls.__mro__:
        if base.__module__ == "builtins":
            continue
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(base)))):
            match node:
                case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                    found.add(name)
    return found


def _bind(function: Any, call: str) -> None:
    """Raises TypeError where a function does not take the arguments."""
    arguments = ast.parse(f"f{call}", mode="eval").body
    assert isinstance(arguments, ast.Call)
    keywords = [keyword.arg for keyword in arguments.keywords]
    inspect.signature(function).bind(*arguments.args, **{name: None for name in keywords if name})
