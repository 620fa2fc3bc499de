"""`samtune train`."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from samtune.cli.options import (
    OUTPUT,
    SEARCH,
    Address,
    Debug,
    Experiment,
    Json,
    Name,
    NoCheck,
    NumWorkers,
    Seed,
    Sets,
    SpaceFile,
    StoragePath,
    TrackingUri,
    answer,
    option,
    required_space,
    stdout_for_json,
)
from samtune.cli.starting import say_start
from samtune.cli.trust import say_imports


def train(
    space_file: SpaceFile = None,
    space: Annotated[
        str | None, option(SEARCH, "A YAML file, or a built-in space; what it searches must be --set.")
    ] = None,
    set_: Sets = None,
    num_workers: NumWorkers = None,
    seed: Seed = None,
    name: Name = None,
    storage_path: StoragePath = None,
    tracking_uri: TrackingUri = None,
    experiment: Experiment = None,
    address: Address = None,
    register: Annotated[
        str | None, option(OUTPUT, "Register the model in MLflow under this name.", "--register", metavar="NAME")
    ] = None,
    bootstrap: Annotated[
        int,
        option(
            SEARCH,
            "Bootstrap rounds for noisy labels: each trains a network first (NAME-1, NAME-2, …) and replaces the "
            "training labels by its predictions.",
            "--bootstrap",
            min=0,
        ),
    ] = 0,
    no_check: NoCheck = False,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Train one configuration, without a search, on the same workers. The same --name resumes it where it stopped."""
    if space_file or space:
        say_start()
    from samtune.config.space import SearchSpace
    from samtune.experiments.json_summary import json_summary
    from samtune.experiments.train import Training, default_name
    from samtune.experiments.tuner import OPTIONS
    from samtune.experiments.verdict import verdict_of
    from samtune.formatting import format_metric
    from samtune.store.study_folder import weights_file
    from samtune.study import Study, TrialState
    from samtune.terminal import make_console, make_display, print_loading

    console = make_console(stderr=json_)
    given = {"resources.num_workers": num_workers, "seed": seed}
    changes = {key: value for key, value in given.items() if value is not None}
    space = required_space(space_file, space, "`samtune train my.yaml`: one that searches nothing")
    chosen = SearchSpace.from_yaml(space, set_ or []).replace(changes, OPTIONS)
    name = name or default_name(chosen)

    say_imports(console, chosen.model_dump())

    def run(chosen: SearchSpace, name: str, register: str | None) -> Study:
        training = Training(
            chosen,
            name=name,
            storage_path=storage_path,
            tracking_uri=tracking_uri,
            experiment=experiment,
            address=address,
            callbacks=[make_display(console)],
            check=not no_check,
        )
        trial = training.run(register=register)
        study = training.folder.read()
        if trial.state is not TrialState.COMPLETED:
            if json_:
                with answer():
                    print(json.dumps({**json_summary(study), "weights": None}), file=sys.__stdout__)
            raise typer.Exit(1 if training.interrupted_by is None else 128 + training.interrupted_by)
        names = ("train_loss", "val_accuracy", "test_accuracy", study.objective.metric, "num_passes")
        shown = dict.fromkeys(names)
        console.print("  ".join(f"{key} {format_metric(trial.metrics[key])}" for key in shown if key in trial.metrics))
        for line in verdict.lines() if (verdict := verdict_of(study)) else ():
            console.print(line, soft_wrap=True)
        return study

    with stdout_for_json(json_):
        for number in range(1, bootstrap + 1):
            earlier = run(chosen, f"{name}-{number}", None)
            chosen = chosen.replace({"data.relabel": weights_file(earlier)})
        study = run(chosen, name, register)
    with answer():
        print_loading(console, study)
        if json_:
            print(json.dumps({**json_summary(study), "weights": weights_file(study)}))
