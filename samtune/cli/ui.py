"""`samtune ui`."""

from __future__ import annotations

import signal
from typing import Annotated, Any

import typer

from samtune.cli.options import WHERE, Debug, StoragePath, option
from samtune.cli.passwords import ask_for_secret


def ui(
    name: Annotated[str | None, typer.Argument(help="Name of a study, whose best trials are compared.")] = None,
    port: Annotated[
        int | None, option(WHERE, "Default: 5000, or a free one where that is taken.", "--port", min=1, max=65535)
    ] = None,
    storage_path: StoragePath = None,
    debug: Debug = False,
) -> None:
    """Start MLflow's UI on the studies of a storage path, for this machine alone; Ctrl-C ends it."""
    from samtune.errors import UsageError
    from samtune.storage import parent
    from samtune.store.study_folder import DEFAULT_STORAGE, absolute_storage, study_folder
    from samtune.tracking import default_tracking_uri, is_configured
    from samtune.tracking.ui import comparison_page, metric_page, serving, top_runs
    from samtune.tracking.uris import is_server, sqlite_path, ui_page

    study = study_folder(storage_path, name).read() if name else None
    uri = study.tracking_uri if study else default_tracking_uri(absolute_storage(storage_path or DEFAULT_STORAGE))
    if study is None and (store := sqlite_path(uri)) and not store.exists():
        storage = storage_path or DEFAULT_STORAGE
        raise UsageError(f"--storage-path {storage}: no search has logged anything there ({store} is not there)")
    known = study is not None and (study.is_own or is_configured(uri, parent(study.storage_path)))
    if study is not None and not known and not is_server(uri):
        raise UsageError(f"study {study.name}: its store {uri} is not in the storage path, and not this user's own")
    if known or not is_server(uri):
        ask_for_secret(uri)
    runs = top_runs(study) if study and known else []  # asked with the credentials of this environment

    def show(base: str) -> None:
        if study is not None and study.experiment_id is not None and runs:
            metric = study.objective.metric
            typer.echo(f"{metric} of the best trials: {metric_page(base, study.experiment_id, runs, metric)}")
            typer.echo(f"the best trials side by side: {comparison_page(base, study.experiment_id, runs)}")
        typer.echo(f"all trials: {ui_page(study, base)}" if study else base)

    if is_server(uri):
        assert study is not None
        show(ui_page(study).partition("#")[0])
        return
    for number in (signal.SIGINT, signal.SIGTERM):  # where a shell has started it in the background, Ctrl-C is ignored
        signal.signal(number, _interrupt)
    try:
        with serving(uri, port) as address:
            show(address)
            typer.echo("Ctrl-C ends it")
            signal.pause()
    except KeyboardInterrupt:
        return


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt
