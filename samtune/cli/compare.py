"""`samtune compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from samtune.cli.options import OUTPUT, Debug, Json, StoragePath, option
from samtune.cli.plot import SUFFIXES
from samtune.errors import UsageError


def compare(
    names: Annotated[list[str], typer.Argument(help="Names of two studies or more; the first is the reference.")],
    output: Annotated[
        Path | None, option(OUTPUT, "Also draw the comparison, to a .png, .svg or .pdf file.", "-o", "--output")
    ] = None,
    storage_path: StoragePath = None,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Compare studies: methods and settings side by side, with the interval of each difference."""
    if output is not None and output.suffix not in SUFFIXES:
        raise UsageError(f"-o {output}: must end in {', '.join(SUFFIXES)}")
    from samtune.experiments.comparison import compare_studies
    from samtune.terminal import make_console, print_comparison

    found = compare_studies(names, storage_path)
    if json_:
        print(json.dumps(found.to_dict()))
    else:
        print_comparison(make_console(), found)
    if output is not None:
        from samtune.report import save_comparison

        try:
            save_comparison(found, output)
        except OSError as error:
            raise UsageError(f"-o {output}: cannot be written: {error.strerror}") from error
        typer.echo(str(output.absolute()), err=json_)
