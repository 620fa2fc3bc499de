"""`samtune report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from samtune.cli.options import OUTPUT, Debug, StoragePath, option
from samtune.cli.passwords import ask_for_secret
from samtune.errors import TrackingError, UsageError, one_line


def report(
    name: Annotated[str, typer.Argument(help="Name of the study.")],
    output: Annotated[
        Path | None, option(OUTPUT, "Where to write the page. Default: NAME.html.", "-o", "--output")
    ] = None,
    storage_path: StoragePath = None,
    log: Annotated[
        bool | None,
        option(
            OUTPUT,
            "Also log the page and its figures to the study's MLflow run. Default: if its store is in the storage "
            "path, is the server of MLFLOW_TRACKING_URI, or this user began the study here.",
            "--log/--no-log",
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Write a study as one page that opens anywhere, offline: leaderboard, figures, and how to repeat it."""
    from samtune.experiments.results import Results
    from samtune.formatting import printable
    from samtune.report import render
    from samtune.storage import parent
    from samtune.tracking import is_configured
    from samtune.tracking.credentials import redact_text

    results = Results.load(name, storage_path)
    target = output or Path(f"{name}.html")
    page = render(results)
    try:
        target.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{target}: cannot be written: {error.strerror}") from error
    typer.echo(str(target.absolute()))
    if results.study.parent_run_id is None:
        return
    known = results.study.is_own or is_configured(results.study.tracking_uri, parent(results.study.storage_path))
    if log is None and not known:
        typer.echo(
            f"not logged to {printable(results.study.tracking_uri)}, which is not configured here (--log does)",
            err=True,
        )
    elif log is not False:
        from samtune.report import all_plots
        from samtune.tracking.store import log_files

        ask_for_secret(results.study.tracking_uri)
        files = {"report.html": page, **{f"figures/{k}.svg": svg for k, svg in all_plots(results)}}
        try:
            log_files(results.study, files)
        except TrackingError as error:
            if log:
                raise
            typer.echo(f"not logged: {redact_text(one_line(error))}", err=True)  # a study that one may only read
        else:
            typer.echo("logged to the study's MLflow run: report.html, figures/", err=True)
