"""`samtune status`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from samtune.cli.options import Debug, Json, StoragePath


def status(
    name: Annotated[str, typer.Argument(help="Name of the study.")],
    storage_path: StoragePath = None,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Show a study, running or ended, without changing it."""
    from samtune.experiments.json_summary import json_summary
    from samtune.store.study_folder import study_folder
    from samtune.terminal import make_console, print_status

    folder = study_folder(storage_path, name)
    study, running = folder.read(), folder.is_running()
    if running:
        study.ended_at = None
    if json_:
        print(json.dumps({**json_summary(study, running=running), "running": running}))
    else:
        print_status(make_console(stderr=False), study, running=running, debug=debug)
