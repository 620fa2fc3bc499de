"""The command line: parse, call one function, print."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from samtune.errors import SamtuneError, UsageError

if TYPE_CHECKING:
    from samtune.search.plan import Plan
    from samtune.spec.space import SearchSpace

app = typer.Typer(
    name="samtune",
    help="Distributed hyperparameter search for Sharpness-Aware Minimization on Ray, Optuna and MLflow.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"samtune {version('samtune')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Distributed hyperparameter search for Sharpness-Aware Minimization on Ray, Optuna and MLflow."""


SEARCH, WHERE, OUTPUT = "What to search", "Where it runs and is kept", "Output"


@app.command()
def search(
    space: Annotated[
        str,
        typer.Option(
            help="A YAML file, or a built-in space by its file name (see `samtune spaces`).", rich_help_panel=SEARCH
        ),
    ],
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Set a dotted key, e.g. training.epochs=5. Repeatable.",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    num_trials: Annotated[int | None, typer.Option(help="Configurations to try.", rich_help_panel=SEARCH)] = None,
    num_workers: Annotated[
        int | None, typer.Option(help="Data-parallel workers of one trial.", rich_help_panel=SEARCH)
    ] = None,
    max_concurrent: Annotated[int | None, typer.Option(help="Most trials at once.", rich_help_panel=SEARCH)] = None,
    seed: Annotated[int | None, typer.Option(help="Seeds the sampler and every trial.", rich_help_panel=SEARCH)] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the study. Default: the space's name and the time.", rich_help_panel=WHERE),
    ] = None,
    storage_path: Annotated[
        str | None, typer.Option(help="Folder for studies. Default: ./samtune-results.", rich_help_panel=WHERE)
    ] = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option(help="MLflow tracking URI. Default: sqlite in the storage path.", rich_help_panel=WHERE),
    ] = None,
    experiment: Annotated[
        str | None, typer.Option(help="MLflow experiment. Default: the space's name.", rich_help_panel=WHERE)
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="Ray cluster: an address, auto, or local. Default: auto if one runs, else local.",
            rich_help_panel=WHERE,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Validate everything, show the plan, start nothing.", rich_help_panel=OUTPUT),
    ] = False,
    json_: Annotated[
        bool, typer.Option("--json", help="One JSON object on stdout, all else on stderr.", rich_help_panel=OUTPUT)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Full tracebacks.", rich_help_panel=OUTPUT)] = False,
) -> None:
    """Run a search: Optuna proposes, warm groups of workers train with SAM, MLflow keeps everything."""
    from samtune.spec.space import SearchSpace

    loaded = SearchSpace.from_yaml(space, set_ or [])
    options: dict[str, Any] = {
        "num_trials": num_trials,
        "num_workers": num_workers,
        "max_concurrent": max_concurrent,
        "seed": seed,
        "name": name,
        "storage_path": storage_path,
        "tracking_uri": tracking_uri,
        "experiment": experiment,
        "address": address,
    }
    if dry_run:
        _dry_run(loaded, options, json_)
    else:
        _search(loaded, options, json_)


def _dry_run(space: SearchSpace, options: dict[str, Any], as_json: bool) -> None:
    from samtune.search.tuner import Tuner
    from samtune.terminal import print_plan

    plan: Plan = Tuner(space, **options).plan()
    if as_json:
        print(json.dumps(plan.to_dict()))
    else:
        print_plan(plan)


def _search(space: SearchSpace, options: dict[str, Any], as_json: bool) -> None:
    from samtune.search.tuner import Tuner
    from samtune.terminal import json_summary, make_console, make_display, print_summary

    console = make_console(stderr=as_json)
    results = Tuner(space, **options, callbacks=[make_display(console)]).fit()
    print_summary(console, results.study)
    if as_json:
        print(json.dumps(json_summary(results.study)))
    if results.interrupted:
        raise typer.Exit(130)


@app.command()
def spaces() -> None:
    """List the built-in search spaces."""
    from samtune.spec.builtin import builtin_spaces, summary

    found = builtin_spaces()
    width = max(map(len, found), default=0)
    for file_name, path in found.items():
        typer.echo(f"{file_name:<{width}}  {summary(path)}")


def main() -> None:
    """Runs the command line and exits: 0 done, 1 failed at run time, 2 usage, 130 interrupted."""
    debug = "--debug" in sys.argv
    try:
        app(standalone_mode=True)
    except SamtuneError as error:
        if debug:
            raise
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        if debug:
            raise
        _fail("interrupted", 130)
    except Exception as error:
        if debug:
            raise
        text = " ".join(f"{type(error).__name__}: {error}".split())
        _fail(f"{text} (run again with --debug for the traceback)", 1)


def _fail(message: str, code: int) -> None:
    print(f"samtune: error: {message}", file=sys.stderr)
    sys.exit(code)


__all__ = ["UsageError", "app", "main"]


if __name__ == "__main__":
    main()
