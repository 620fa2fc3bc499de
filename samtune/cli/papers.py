"""`samtune papers`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from samtune.cli.options import Debug, Json, StoragePath
from samtune.errors import UsageError

if TYPE_CHECKING:
    from samtune.experiments.papers import Experiment, Measured


def papers(
    which: Annotated[
        str, typer.Argument(help="Only those with this place (`table 1`, `figure 3`) or this in their space's name.")
    ] = "",
    storage_path: StoragePath = None,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """List the papers' experiments: what is published, the space, its cost, and what your studies measured."""
    from samtune.experiments.papers import list_experiments, measured_in
    from samtune.formatting import printable

    experiments = list_experiments(which)
    if not experiments:
        raise UsageError(f"{which}: no such experiment: a place such as 'table 1', or a part of a space's name")
    measured, problems = measured_in(storage_path)
    if json_:
        print(json.dumps([_as_dict(each, measured.get(each.space, [])) for each in experiments]))
    else:
        _print(experiments, measured)
    for problem in problems:
        typer.echo(printable(problem), err=True)


def _as_dict(experiment: Experiment, measured: list[Measured]) -> dict[str, object]:
    return {**asdict(experiment), "measured": [each.to_dict() for each in measured]}


def _print(experiments: list[Experiment], measured: dict[str, list[Measured]]) -> None:
    from samtune.config.builtin_spaces import PAPERS
    from samtune.experiments.papers import format_published
    from samtune.terminal import make_console

    console = make_console()
    paper = place = ""
    for each in experiments:
        if each.paper != paper:
            console.print(("\n" if paper else "") + PAPERS[each.paper], style="bold", soft_wrap=True)
            paper, place = each.paper, ""
        if each.place != place:
            console.print(f"\n{each.place}", style="bold", soft_wrap=True)
            place = each.place
        console.print(f"  {each.space}: {each.title}", soft_wrap=True)
        for line in format_published(each):
            console.print(f"    {line}", soft_wrap=True)
        console.print(f"    cost: {each.cost}", soft_wrap=True, style="dim")
        for found in measured.get(each.space, []):
            console.print(f"    here: {found}", soft_wrap=True, style="green")
