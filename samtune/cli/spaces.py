"""`samtune spaces`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from samtune.cli.options import OUTPUT, Debug, option, print_or_write
from samtune.errors import UsageError


def spaces(
    name: Annotated[str | None, typer.Argument(help="The built-in space to print. Default: lists them all.")] = None,
    output: Annotated[
        Path | None, option(OUTPUT, "Write it to this file, for you to edit, instead of stdout.", "-o", "--output")
    ] = None,
    debug: Debug = False,
) -> None:
    """List the built-in search spaces, or print one."""
    from samtune.config.builtin_spaces import PAPERS, find_builtin, grouped_spaces, summary

    if name is not None:
        text = find_builtin(name).read_text(encoding="utf-8")
        print_or_write(text, output, f"`samtune search {output}` searches it")
        return
    if output is not None:
        raise UsageError("-o: which space? e.g. `samtune spaces digits.yaml -o my.yaml`")
    groups = {folder: found for folder, found in grouped_spaces().items() if found}
    width = max((len(name) for found in groups.values() for name in found), default=0)
    for number, (folder, found) in enumerate(groups.items()):
        typer.echo(("\n" if number else "") + PAPERS.get(folder, folder))
        for file_name, path in found.items():
            typer.echo(f"  {file_name:<{width}}  {summary(path)}")
