"""Options that several commands share."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from samtune.errors import UsageError

SEARCH, WHERE, OUTPUT = "What to search", "Where it runs and is kept", "Output"


@contextmanager
def stdout_for_json(as_json: bool) -> Iterator[None]:
    """Sends everything to stderr: Ray prints of processes that died on stdout, which is the JSON object's alone."""
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        yield


@contextmanager
def answer() -> Iterator[None]:
    """Around the last output of a command that has finished: Ctrl-C has nothing left to stop."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def chosen_space(argument: str | None, option: str | None) -> str | None:
    """The space that a command was given, with or without --space. Raises UsageError where they differ."""
    if argument is not None and option not in (None, argument):
        raise UsageError(f"--space {option}: the space is {argument} already; give one")
    return argument or option


def required_space(argument: str | None, option: str | None, example: str) -> str:
    """The space that a command was given. Raises UsageError, with the example, where there is none."""
    chosen = chosen_space(argument, option)
    if chosen is None:
        raise UsageError(f"a search space is required, such as {example}")
    return chosen


def print_or_write(text: str, output: Path | None, next_step: str) -> None:
    """Prints a text, or writes it to a file that is not there yet, and then says what is done with it."""
    if output is None:
        typer.echo(text, nl=False)
        return
    new_file(output, text)
    typer.echo(f"{output}: {next_step}", err=True)


def new_file(path: Path, text: str) -> None:
    """Writes a file that is not there yet.

    Raises:
        UsageError: it is there, or cannot be written.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise UsageError(f"{path}: is there already; delete it or name another file") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from error


def option(panel: str, help_text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=help_text, rich_help_panel=panel, **more)


def _workers(text: str) -> int | str:
    if text == "auto" or text.lstrip("-").isdecimal():
        return text if text == "auto" else int(text)
    raise typer.BadParameter(f"{text!r} is neither a whole number nor auto.")


SpaceFile = Annotated[
    str | None,
    typer.Argument(metavar="[SPACE]", help="A YAML file, or a built-in space by its file name; also as --space."),
]
Space = Annotated[
    str | None, option(SEARCH, "A YAML file, or a built-in space by its file name (see `samtune spaces`).")
]
Sets = Annotated[
    list[str] | None,
    option(SEARCH, "Set a dotted key, e.g. training.epochs=5. Repeatable.", "--set", metavar="KEY=VALUE"),
]
TrainFunction = Annotated[
    str | None,
    option(
        SEARCH,
        "Your training function, file.py:function or package.module:function, instead of the built-in loop.",
        "--train",
        metavar="FUNCTION",
    ),
]
NumTrials = Annotated[int | None, option(SEARCH, "Number of trials. With --resume: more, or fewer to end early.")]
NumWorkers = Annotated[
    Any,
    option(SEARCH, "Data-parallel workers of one trial, or auto.", metavar="INTEGER|auto", parser=_workers),
]
MaxConcurrent = Annotated[int | None, option(SEARCH, "Maximum number of trials at once.")]
Seed = Annotated[int | None, option(SEARCH, "Seeds the sampler and every trial.")]
Resume = Annotated[str | None, option(WHERE, "Continue an interrupted study, or give it more trials.", metavar="NAME")]
Extend = Annotated[
    bool,
    option(WHERE, "With --resume and --space: continue in that space; earlier trials that fit it count.", "--extend"),
]
RetryFailed = Annotated[bool, option(WHERE, "With --resume: run failed trials again.", "--retry-failed")]
Name = Annotated[str | None, option(WHERE, "Name of the study. Default: the space's name and the time.")]
StoragePath = Annotated[
    str | None, option(WHERE, "Folder for studies, or a URI such as s3://bucket/path. Default: ./samtune-results.")
]
TrackingUri = Annotated[str | None, option(WHERE, "MLflow tracking URI. Default: sqlite in the storage path.")]
Experiment = Annotated[str | None, option(WHERE, "MLflow experiment. Default: the space's name.")]
LogTo = Annotated[
    list[str] | None,
    option(OUTPUT, "A tracker in addition to MLflow: tensorboard or wandb. Repeatable.", "--log-to", metavar="TRACKER"),
]
SystemMetrics = Annotated[
    bool,
    option(
        OUTPUT,
        "Log this machine's load, memory, disk, network and GPUs to the parent run, as MLflow does with "
        "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=true.",
        "--system-metrics",
    ),
]
Address = Annotated[
    str | None, option(WHERE, "Ray cluster: an address, auto, or local. Default: auto if one runs, else local.")
]
Trust = Annotated[
    bool,
    option(
        WHERE,
        "Do not ask before importing functions named by someone else's study or file.",
        "--trust",
    ),
]
Code = Annotated[
    str | None,
    option(
        WHERE,
        "For a study started in Python: the script that defines its functions. It is imported, not run as `__main__`.",
        "--code",
        metavar="SCRIPT",
    ),
]
NoCheck = Annotated[
    bool,
    option(SEARCH, "Skip the one-batch check of your own code before the workers start.", "--no-check"),
]
DryRun = Annotated[bool, option(OUTPUT, "Validate everything, show the plan, start nothing.", "--dry-run")]
Estimate = Annotated[
    bool, option(OUTPUT, "Also estimate the time, from a few timed steps on this machine.", "--estimate")
]
Json = Annotated[bool, option(OUTPUT, "One JSON object on stdout, all else on stderr.", "--json")]
Debug = Annotated[bool, option(OUTPUT, "Full tracebacks.", "--debug")]
