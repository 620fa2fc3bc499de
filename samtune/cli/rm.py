"""`samtune rm`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from samtune.cli.options import WHERE, Debug, StoragePath, option
from samtune.errors import UsageError


def rm(
    names: Annotated[list[str], typer.Argument(help="Names of studies.")],
    yes: Annotated[bool, option(WHERE, "Do not ask.", "--yes", "-y")] = False,
    storage_path: StoragePath = None,
    debug: Debug = False,
) -> None:
    """Delete studies: journal, checkpoints and weights. Asks first. MLflow keeps their runs."""
    from samtune.experiments.catalog import plan_removal, remove_study
    from samtune.formatting import counted, format_bytes, printable
    from samtune.tracking.credentials import redact

    removals = [plan_removal(name, storage_path) for name in dict.fromkeys(names)]
    for removal in removals:
        size = "" if removal.num_bytes is None else f", {format_bytes(removal.num_bytes)}"
        study = removal.study
        typer.echo(printable(f"{removal.uri}: {study.kind} of {counted(len(study.trials), 'trial')}{size}"), err=True)
        for other in removal.others:
            typer.echo(f"  its confirmation {other} stays (`samtune rm {other}`)", err=True)
        if removal.is_in_mlflow:
            where = f"{redact(study.tracking_uri)}, experiment {study.experiment}, run {study.parent_run_id}"
            typer.echo(printable(f"  MLflow keeps its runs: {where}"), err=True)
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("--yes is required where there is nobody to ask")
        if not typer.confirm("Delete?", err=True):
            raise typer.Exit(1)
    for removal in removals:
        remove_study(removal.study.name, storage_path)
    freed = sum(removal.num_bytes or 0 for removal in removals)
    typer.echo(f"deleted {', '.join(removal.study.name for removal in removals)}; freed {format_bytes(freed)}")
