"""`samtune plot`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from samtune.cli.options import OUTPUT, Debug, StoragePath, option
from samtune.errors import UsageError

SUFFIXES = (".png", ".svg", ".pdf")


def plot(
    name: Annotated[str, typer.Argument(help="Name of the study.")],
    kind: Annotated[
        str,
        option(
            OUTPUT,
            "rho, history, importances, slices, contour, parallel, pareto, diagnostics or timeline; of a confirmation "
            "candidates, diagnostics or timeline.",
            "--kind",
        ),
    ],
    output: Annotated[Path, option(OUTPUT, "What to write: .png, .svg or .pdf.", "-o", "--output")],
    storage_path: StoragePath = None,
    debug: Debug = False,
) -> None:
    """Draw one figure of a study for a paper."""
    if output.suffix not in SUFFIXES:
        raise UsageError(f"-o {output}: must end in {', '.join(SUFFIXES)}")
    from samtune.experiments.results import Results
    from samtune.report import save_plot

    try:
        save_plot(Results.load(name, storage_path), kind, output, output.suffix.removeprefix("."))
    except OSError as error:
        raise UsageError(f"-o {output}: cannot be written: {error.strerror}") from error
    typer.echo(str(output.absolute()))
