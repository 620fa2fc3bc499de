"""The user's own networks, data, losses and metrics: functions named by import path, `package.module:function`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any

from samtune.errors import UsageError


def resolve_part(path: str, key: str) -> Callable[..., Any]:
    """The function (or class) of an import path.

    Args:
        path: `package.module:function`.
        key: the dotted key that names it, for messages.

    Raises:
        UsageError: it cannot be imported, or cannot be called.
    """
    try:
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


def check_part(path: str, key: str, *args: Any, **kwargs: Any) -> None:
    """Makes sure that a part can be imported and takes these arguments; it is not called.

    Raises:
        UsageError: it cannot, or does not.
    """
    part = resolve_part(path, key)
    try:
        signature = inspect.signature(part)
    except (TypeError, ValueError):  # built in C: only a call would tell
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        given = ", ".join([*("…" for _ in args), *(f"{name}=…" for name in kwargs)])
        raise UsageError(f"{key}: {path}{signature} cannot be called with ({given}): {error}") from error
