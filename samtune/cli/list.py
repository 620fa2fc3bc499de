"""`samtune list`."""

from __future__ import annotations

import json
from dataclasses import asdict

import typer

from samtune.cli.options import Debug, Json, StoragePath


def list_(storage_path: StoragePath = None, json_: Json = False, debug: Debug = False) -> None:
    """List the studies of a storage path: state, best value, trials, time and size, the newest first."""
    from samtune.experiments.catalog import list_studies
    from samtune.store.study_folder import DEFAULT_STORAGE, absolute_storage
    from samtune.terminal import make_console, print_studies

    entries = list_studies(storage_path)
    if json_:
        print(json.dumps([asdict(entry) for entry in entries]))
        return
    if not entries:
        typer.echo(f"no study in {absolute_storage(storage_path or DEFAULT_STORAGE)}", err=True)
    print_studies(make_console(), entries)
