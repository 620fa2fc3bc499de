"""`samtune spaces`."""

from __future__ import annotations

import typer


def spaces() -> None:
    """List the built-in search spaces."""
    from samtune.spec.builtin import builtin_spaces, summary

    found = builtin_spaces()
    width = max(map(len, found), default=0)
    for file_name, path in found.items():
        typer.echo(f"{file_name:<{width}}  {summary(path)}")
