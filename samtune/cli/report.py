"""`samtune report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from samtune.cli.options import OUTPUT, Debug, StoragePath, option
from samtune.errors import UsageError


def report(
    name: Annotated[str, typer.Argument(help="Name of the study.")],
    output: Annotated[
        Path | None, option(OUTPUT, "Where to write the page. Default: NAME.html.", "-o", "--output")
    ] = None,
    storage_path: StoragePath = None,
    log: Annotated[
        bool, option(OUTPUT, "Also log the page and its figures to the study's MLflow run (default).", "--log/--no-log")
    ] = True,
    debug: Debug = False,
) -> None:
    """Write a study as one page that opens anywhere, offline: leaderboard, figures, and how to do it again."""
    from samtune.experiments.results import Results
    from samtune.report import render

    results = Results.load(name, storage_path)
    target = output or Path(f"{name}.html")
    page = render(results)
    try:
        target.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{target}: cannot be written: {error.strerror}") from error
    typer.echo(str(target.absolute()))
    if log and results.study.parent_run_id is not None:
        from samtune.report import all_plots
        from samtune.tracking.store import log_files

        log_files(results.study, {"report.html": page, **{f"figures/{k}.svg": svg for k, svg in all_plots(results)}})
        typer.echo("logged to the study's MLflow run: report.html, figures/", err=True)
