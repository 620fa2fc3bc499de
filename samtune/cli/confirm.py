"""`samtune confirm`."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Annotated

import typer

from samtune.cli.options import OUTPUT, SEARCH, Address, Debug, Json, StoragePath, option


def confirm(
    name: Annotated[str, typer.Argument(help="Name of the study.")],
    top: Annotated[int, option(SEARCH, "How many of the best trials to retrain.", "--top", min=1)] = 3,
    replicas: Annotated[int, option(SEARCH, "Seeds of each.", "--replicas", min=1)] = 5,
    baseline: Annotated[
        str, option(SEARCH, "sgd: plain SGD for as many epochs and as many passes; or none.", "--baseline")
    ] = "sgd",
    storage_path: StoragePath = None,
    address: Address = None,
    register: Annotated[
        str | None, option(OUTPUT, "Register the best model in MLflow under this name.", "--register", metavar="NAME")
    ] = None,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Retrain the best trials on the whole training set with new seeds, and test each once.

    Run it again to go on with what was interrupted, or to see the result again.
    """
    from samtune.confirm.confirmer import Confirmer
    from samtune.terminal import make_console, make_display
    from samtune.terminal.confirmed import print_confirmation

    console = make_console(stderr=json_)
    confirmer = Confirmer(
        name,
        storage_path=storage_path,
        top=top,
        replicas=replicas,
        baseline=baseline,
        address=address,
        callbacks=[make_display(console)],
    )
    # Ray prints of processes that died on stdout, which is the JSON object's alone.
    quiet = contextlib.redirect_stdout(sys.stderr) if json_ else contextlib.nullcontext()
    with quiet:
        confirmation = confirmer.run(register=register)
    print_confirmation(console, confirmation, again=f"samtune confirm {name}")
    if json_:
        print(json.dumps(confirmation.to_dict()))
    if confirmation.num_missing:
        raise typer.Exit(130 if confirmer.interrupted else 1)
