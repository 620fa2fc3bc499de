"""`samtune validate`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from samtune.cli.options import Debug, Json, Sets
from samtune.errors import UsageError


def validate(
    space: Annotated[str, typer.Argument(help="A YAML file, or a built-in space by its file name.")],
    set_: Sets = None,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Check a search space without a cluster: what it searches, and which code it would import.

    No code of yours is run. Data that is not on this machine is not checked.
    """
    from samtune.config.notes import notes_on
    from samtune.config.space import SearchSpace
    from samtune.experiments.plan_checks import check_space
    from samtune.formatting import counted, printable
    from samtune.user_source import check_named, named_functions

    try:
        loaded = SearchSpace.from_yaml(space, set_ or [])
        check_named(loaded.model_dump())
        unchecked = check_space(loaded)
    except UsageError as error:
        if not json_:
            raise
        print(json.dumps({"valid": False, "error": str(error)}))
        raise typer.Exit(error.exit_code) from error
    searched = {leaf.place.label.removeprefix("search."): str(leaf.node) for leaf in loaded.tree.leaves()}
    imports = [str(function) for function in named_functions(loaded.model_dump())]
    notes = notes_on(loaded)
    if json_:
        report = {"valid": True, "name": loaded.name, "num_trials": loaded.num_trials, "searched": searched}
        print(
            json.dumps(
                {
                    **report,
                    "constraints": loaded.constraints,
                    "imports": imports,
                    "unchecked": unchecked,
                    "notes": notes,
                }
            )
        )
        return
    what = counted(len(searched), "searched key") if searched else "nothing is searched"
    lines = [f"{loaded.source_name}: valid; {counted(loaded.num_trials, 'trial')}, {what}"]
    width = max(map(len, searched), default=0)
    lines += [f"  {key:<{width}}  {text}" for key, text in searched.items()]
    lines += [f"  where {constraint}" for constraint in loaded.constraints]
    lines += [f"  imports {function}" for function in imports]
    lines += [f"  not checked: {line}" for line in unchecked]
    lines += [f"  note: {line}" for line in notes]
    print("\n".join(map(printable, lines)))
