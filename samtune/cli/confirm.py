"""`samtune confirm`."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from samtune.cli.options import (
    OUTPUT,
    SEARCH,
    Address,
    Code,
    Debug,
    Json,
    Sets,
    StoragePath,
    TrackingUri,
    Trust,
    answer,
    option,
    stdout_for_json,
)
from samtune.cli.passwords import ask_for_secret
from samtune.cli.starting import LINE, STUDY_LINE, say_start
from samtune.cli.trust import ask_to_trust, say_imports
from samtune.errors import UsageError
from samtune.user_code import use_script


def confirm(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Name of a study, the id of an MLflow run (a search's, or one trial's), or a YAML that searches "
            "nothing, or whose searched keys are --set. Several are confirmed together, with the same seeds.",
            metavar="STUDY...",
        ),
    ],
    top: Annotated[int, option(SEARCH, "How many of the best trials to retrain, of each study.", "--top", min=1)] = 3,
    replicas: Annotated[
        int | None,
        option(
            SEARCH,
            "Seeds of each candidate. A larger number adds replicas to a confirmation. Default: 5, or what it has.",
            "--replicas",
            min=1,
        ),
    ] = None,
    baseline: Annotated[
        str,
        option(
            SEARCH,
            "sgd: plain SGD for as many epochs and as many passes; none; or a STUDY, whose best trial it is.",
            "--baseline",
        ),
    ] = "sgd",
    set_: Sets = None,
    storage_path: StoragePath = None,
    tracking_uri: TrackingUri = None,
    address: Address = None,
    register: Annotated[
        str | None, option(OUTPUT, "Register the best model in MLflow under this name.", "--register", metavar="NAME")
    ] = None,
    code: Code = None,
    trust: Trust = False,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Retrain the best trials on the whole training set with new seeds, and test each once.

    Run it again to resume what was interrupted, or to see the result again; with more --replicas, to add to it.
    """
    say_start(LINE if all(source.endswith((".yaml", ".yml")) for source in sources) else STUDY_LINE)
    from samtune.config.space import SearchSpace
    from samtune.experiments.confirm import Confirmer
    from samtune.terminal import make_console, make_display, print_confirmation
    from samtune.tracking import redact_command

    if code is not None:
        use_script(code)
    console = make_console(stderr=json_)
    other = next((source for source in sources if not source.endswith((".yaml", ".yml"))), None)
    if set_ and other is not None:
        raise UsageError(f"--set {set_[0]}: changes a space, and {other} is a study or a run")
    chosen = [s if not s.endswith((".yaml", ".yml")) else SearchSpace.from_yaml(s, set_ or []) for s in sources]

    def make(trust: bool) -> Confirmer:
        return Confirmer(
            chosen,
            storage_path=storage_path,
            tracking_uri=tracking_uri,
            top=top,
            replicas=replicas,
            baseline=baseline,
            address=address,
            callbacks=[make_display(console)],
            trust=trust,
        )

    confirmer = ask_to_trust(make, trust)
    ask_for_secret(confirmer.tracking_uri)
    say_imports(console, confirmer.candidates.model_dump())
    with stdout_for_json(json_):
        confirmation = confirmer.run(register=register)
    with answer():
        again = redact_command(["samtune", *sys.argv[1:]])
        print_confirmation(console, confirmation, again, debug=debug)
        if json_:
            print(json.dumps(confirmation.to_dict()))
    if confirmation.num_missing:
        raise typer.Exit(1 if confirmer.interrupted_by is None else 128 + confirmer.interrupted_by)
