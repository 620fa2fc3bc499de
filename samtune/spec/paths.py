"""The paths of files and folders that a space names: fixed, searched, or in a branch of a choice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_PATHS = ("data.root", "data.relabel", "model.weights")
_PLACES = ("data", "model", "search", "initial")


def convert_paths(space: dict[str, Any], convert: Callable[[str], str]) -> dict[str, Any]:
    """A copy of a space's nested keys in which each path is converted."""
    return {key: _converted(key, value, convert) if key in _PLACES else value for key, value in space.items()}


def _converted(key: str, value: Any, convert: Callable[[str], str]) -> Any:
    """Args: key: the dotted key that the value stands at, as far as it is known."""
    if isinstance(value, list | tuple):
        return [_converted(key, item, convert) for item in value]
    if isinstance(value, dict):
        return {name: _converted(_below(key, name), item, convert) for name, item in value.items()}
    return convert(value) if isinstance(value, str) and key in _PATHS else value


def _below(key: str, name: str) -> str:
    if key in ("search", "initial"):  # dotted keys follow
        return name
    return key if name in ("choice", "grid") else f"{key}.{name}"
