"""How the command line asks before something that somebody else made runs code or sends data away."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import Console

_T = TypeVar("_T")


def ask_to_trust(do: Callable[[bool], _T], trust: bool) -> _T:
    """Does something with trust where the user gave it, or gives it now.

    Args:
        do: takes whether the user trusts it.

    Raises:
        UntrustedError: there is nobody to ask, or the answer is no.
    """
    from samtune.experiments.trust import UntrustedError

    try:
        return do(trust)
    except UntrustedError as error:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise
        typer.echo("\n  ".join([f"{error.what}. It", *error.reasons]), err=True)
        if not typer.confirm("Go on?", err=True):
            raise
        return do(True)


def say_imports(console: Console, tree: Mapping[str, Any]) -> None:
    """Says which functions by import path are about to be imported, and from which files."""
    from samtune.user_source import named_functions

    for function in named_functions(tree):
        console.print(f"imports {function}", soft_wrap=True)
