"""`samtune papers`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from samtune.cli.options import (
    SEARCH,
    Address,
    Debug,
    Json,
    StoragePath,
    TrackingUri,
    answer,
    option,
    stdout_for_json,
)
from samtune.errors import UsageError

if TYPE_CHECKING:
    from samtune.experiments.papers import Experiment, Measured


def papers(
    which: Annotated[
        str,
        typer.Argument(
            help="Only experiments of this place (`table 1`, `figure 3`), or with this text in their space's name."
        ),
    ] = "",
    run: Annotated[
        str | None,
        option(
            SEARCH,
            "small: train a CPU-sized version of the papers' claims on scikit-learn's digits, and compare. Run it "
            "again to resume what was interrupted, or to see the result again.",
            "--run",
            metavar="SIZE",
        ),
    ] = None,
    replicas: Annotated[int, option(SEARCH, "With --run: seeds of each configuration.", "--replicas", min=2)] = 10,
    storage_path: StoragePath = None,
    tracking_uri: TrackingUri = None,
    address: Address = None,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """List the papers' experiments: what is published, the space, its cost, and what your studies measured."""
    if run is not None:
        if run != "small":
            raise UsageError("must be small", argument="run", value=run)
        if which:
            raise UsageError(f"{which}: --run small runs all claims; leave it out")
        _run_small(replicas, storage_path, tracking_uri, address, json_)
        return
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


def _run_small(
    replicas: int, storage_path: str | None, tracking_uri: str | None, address: str | None, as_json: bool
) -> None:
    from samtune.experiments.small_claims import SmallClaims
    from samtune.terminal import make_console, make_display, print_claims

    console = make_console(stderr=as_json)
    small = SmallClaims(
        replicas=replicas,
        storage_path=storage_path,
        tracking_uri=tracking_uri,
        address=address,
        callbacks=[make_display(console)],
    )
    with stdout_for_json(as_json):
        study, claims = small.run()
    with answer():
        print_claims(console, study, claims)
        if as_json:
            print(json.dumps({"study": study.name, "claims": [each.to_dict() for each in claims]}))
    if small.interrupted_by is not None:
        raise typer.Exit(128 + small.interrupted_by)


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
