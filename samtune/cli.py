"""The command line: parse, call one function, print."""

from __future__ import annotations

import contextlib
import json
import sys
import traceback
from typing import TYPE_CHECKING, Annotated, Any

import typer

from samtune.errors import SamtuneError, UsageError

if TYPE_CHECKING:
    from samtune.search.tuner import Tuner

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


def _option(panel: str, help_text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=help_text, rich_help_panel=panel, **more)


Space = Annotated[
    str | None, _option(SEARCH, "A YAML file, or a built-in space by its file name (see `samtune spaces`).")
]
Sets = Annotated[
    list[str] | None,
    _option(SEARCH, "Set a dotted key, e.g. training.epochs=5. Repeatable.", "--set", metavar="KEY=VALUE"),
]
NumTrials = Annotated[int | None, _option(SEARCH, "Configurations to try.")]
NumWorkers = Annotated[int | None, _option(SEARCH, "Data-parallel workers of one trial.")]
MaxConcurrent = Annotated[int | None, _option(SEARCH, "Most trials at once.")]
Seed = Annotated[int | None, _option(SEARCH, "Seeds the sampler and every trial.")]
Resume = Annotated[
    str | None, _option(WHERE, "Go on with a study that was interrupted, or give it more trials.", metavar="NAME")
]
Name = Annotated[str | None, _option(WHERE, "Name of the study. Default: the space's name and the time.")]
StoragePath = Annotated[str | None, _option(WHERE, "Folder for studies. Default: ./samtune-results.")]
TrackingUri = Annotated[str | None, _option(WHERE, "MLflow tracking URI. Default: sqlite in the storage path.")]
Experiment = Annotated[str | None, _option(WHERE, "MLflow experiment. Default: the space's name.")]
Address = Annotated[
    str | None, _option(WHERE, "Ray cluster: an address, auto, or local. Default: auto if one runs, else local.")
]
DryRun = Annotated[bool, _option(OUTPUT, "Validate everything, show the plan, start nothing.", "--dry-run")]
Json = Annotated[bool, _option(OUTPUT, "One JSON object on stdout, all else on stderr.", "--json")]
Debug = Annotated[bool, _option(OUTPUT, "Full tracebacks.", "--debug")]


@app.command()
def search(
    space: Space = None,
    set_: Sets = None,
    num_trials: NumTrials = None,
    num_workers: NumWorkers = None,
    max_concurrent: MaxConcurrent = None,
    seed: Seed = None,
    resume: Resume = None,
    name: Name = None,
    storage_path: StoragePath = None,
    tracking_uri: TrackingUri = None,
    experiment: Experiment = None,
    address: Address = None,
    dry_run: DryRun = False,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Run a search: Optuna proposes, warm groups of workers train with SAM, MLflow keeps everything."""
    from samtune.search.tuner import Tuner
    from samtune.spec.space import SearchSpace

    changes: dict[str, Any] = {"num_trials": num_trials, "max_concurrent": max_concurrent}
    where: dict[str, Any] = {"storage_path": storage_path, "address": address}
    fixed: dict[str, Any] = {"num_workers": num_workers, "seed": seed, "name": name}
    fixed |= {"tracking_uri": tracking_uri, "experiment": experiment}
    if resume is None and space is None:
        raise UsageError("--space is required: a YAML file or a built-in space (`samtune spaces` lists them)")
    loaded = None if space is None else SearchSpace.from_yaml(space, set_ or [])
    if resume is not None:
        given = [f"--{key.replace('_', '-')}" for key, value in fixed.items() if value is not None]
        if set_ and space is None:
            given.append("--set")
        if given:
            raise UsageError(f"--resume {resume}: the study has its own {', '.join(given)}; leave it out")
        tuner = Tuner.resume(resume, space=loaded, **changes, **where)
    else:
        assert loaded is not None
        tuner = Tuner(loaded, **changes, **where, **fixed)
    if dry_run:
        _dry_run(tuner, json_)
    else:
        _search(tuner, json_)


def _dry_run(tuner: Tuner, as_json: bool) -> None:
    from samtune.terminal import print_plan

    plan = tuner.plan()
    if as_json:
        print(json.dumps(plan.to_dict()))
    else:
        print_plan(plan)


def _search(tuner: Tuner, as_json: bool) -> None:
    from samtune.search.results import SearchFailedError
    from samtune.terminal import json_summary, make_console, make_display, print_summary

    console = make_console(stderr=as_json)
    tuner.callbacks.append(make_display(console))
    failure: SearchFailedError | None = None
    # Ray prints of processes that died on stdout, which is the JSON object's alone.
    quiet = contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()
    try:
        with quiet:
            results = tuner.fit()
    except SearchFailedError as error:
        failure, results = error, error.results
    print_summary(console, results.study)
    if as_json:
        print(json.dumps(json_summary(results.study)))
    if failure is not None:
        raise failure
    if results.interrupted:
        raise typer.Exit(130)


@app.command()
def status(
    name: Annotated[str, typer.Argument(help="Name of the study.")],
    storage_path: StoragePath = None,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Show a running or ended study, without touching it."""
    from samtune.search.folders import study_folder
    from samtune.search.journal import is_running, read_journal
    from samtune.terminal import json_summary, make_console, print_status

    folder = study_folder(storage_path, name)
    study = read_journal(folder)
    running = is_running(folder)
    if running:
        study.ended_at = None
    if json_:
        print(json.dumps({**json_summary(study), "running": running}))
    else:
        print_status(make_console(stderr=False), study, running=running)


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
            traceback.print_exc()
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
