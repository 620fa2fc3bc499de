"""`samtune spaces`."""

from __future__ import annotations

import typer


def spaces() -> None:
    """List the built-in search spaces."""
    from samtune.config.builtin_spaces import PAPERS, grouped_spaces, summary

    groups = {folder: found for folder, found in grouped_spaces().items() if found}
    width = max((len(name) for found in groups.values() for name in found), default=0)
    for number, (folder, found) in enumerate(groups.items()):
        typer.echo(("\n" if number else "") + PAPERS.get(folder, folder))
        for file_name, path in found.items():
            typer.echo(f"  {file_name:<{width}}  {summary(path)}")
