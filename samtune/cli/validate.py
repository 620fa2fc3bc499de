"""`samtune validate`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from samtune.cli.options import Debug, Json, Sets
from samtune.errors import SpaceError


def validate(
    space: Annotated[str, typer.Argument(help="A YAML file, or a built-in space by its file name.")],
    set_: Sets = None,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Check a search space, but for the cluster, and say what it searches. Data that are not here are left out."""
    from samtune.config.samplers import CustomSamplerConfig
    from samtune.config.space import SearchSpace
    from samtune.experiments.plan import check_space

    try:
        loaded = SearchSpace.from_yaml(space, set_ or [])
        if isinstance(loaded.sampler, CustomSamplerConfig):
            from samtune.tune.optuna_samplers import build_sampler

            build_sampler(loaded.sampler, loaded.seed, parallel=False)
        unchecked = check_space(loaded)
    except SpaceError as error:
        if not json_:
            raise
        print(json.dumps({"valid": False, "error": str(error)}))
        raise typer.Exit(error.exit_code) from error
    searched = {leaf.where.removeprefix("search."): str(leaf.node) for leaf in loaded.tree.leaves()}
    if json_:
        report = {"valid": True, "name": loaded.name, "num_trials": loaded.num_trials, "searched": searched}
        print(json.dumps({**report, "constraints": loaded.constraints, "unchecked": unchecked}))
        return
    print(f"{loaded.source_name}: valid; {loaded.num_trials} trials, {len(searched)} searched keys")
    width = max(map(len, searched), default=0)
    for key, text in searched.items():
        print(f"  {key:<{width}}  {text}")
    for constraint in loaded.constraints:
        print(f"  where {constraint}")
    for line in unchecked:
        print(f"  not checked: {line}")
