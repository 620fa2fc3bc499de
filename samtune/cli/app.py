"""The command line's root: its commands, and how it ends."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import re
import signal
import sys
import traceback
from contextlib import suppress
from typing import Annotated

import typer

from samtune.cli.best import best
from samtune.cli.compare import compare
from samtune.cli.confirm import confirm
from samtune.cli.docs import docs
from samtune.cli.export import export
from samtune.cli.k8s import k8s
from samtune.cli.list import list_
from samtune.cli.logs import logs
from samtune.cli.papers import papers
from samtune.cli.parts import data, methods, models, samplers
from samtune.cli.plot import plot
from samtune.cli.report import report
from samtune.cli.rm import rm
from samtune.cli.schema import schema
from samtune.cli.search import search
from samtune.cli.sharpness import sharpness
from samtune.cli.slurm import slurm
from samtune.cli.spaces import spaces
from samtune.cli.status import status
from samtune.cli.train import train
from samtune.cli.ui import ui
from samtune.cli.validate import validate
from samtune.errors import SamtuneError, UsageError, one_line
from samtune.user_path import add_user_folders, place_of

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
        from samtune.cli.about import about

        typer.echo(about(debug="--debug" in sys.argv))
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            "-V",
            callback=_version,
            is_eager=True,
            help="Show the version; with --debug also those of the libraries, and the machine, for a bug report.",
        ),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", hidden=True)] = False,
) -> None:
    """Distributed hyperparameter search for Sharpness-Aware Minimization on Ray, Optuna and MLflow."""


for command in (
    *(search, train, list_, status, logs, best, confirm, compare, report, plot, ui, sharpness, export, rm),
    *(slurm, k8s),
    *(spaces, papers, models, data, methods, samplers, validate, schema, docs),
):
    app.command(command.__name__.rstrip("_"))(command)


def _show_log() -> None:
    """What samtune logs in this process, as plain lines on stderr: that images are decoded, or a cache is damaged."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("samtune")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


def main() -> None:
    """Runs the command line and exits: 0 done, 1 failed at run time, 2 usage, 128 + N after signal N (Ctrl-C: 130)."""
    debug = "--debug" in sys.argv
    _show_log()
    # The interpreter would look through all objects of Ray, MLflow and torch for cycles before it ends: for a second.
    atexit.register(gc.freeze)
    with suppress(OSError):  # a working directory that was deleted
        add_user_folders([os.getcwd()])  # modules of the user's that a space names
    try:
        app(standalone_mode=True)
    except SamtuneError as error:
        if debug:
            traceback.print_exc()
            if text := getattr(error, "traceback", None):  # of the worker
                print(f"\n{text.rstrip()}", file=sys.stderr)
        _fail(with_options(error), error.exit_code)
    except KeyboardInterrupt as interrupt:
        if debug:
            raise
        _fail("interrupted", 128 + getattr(interrupt, "signal", signal.SIGINT))
    except Exception as error:
        if debug:
            raise
        if not _has_working_directory():
            _fail("the working directory was deleted: change to another, e.g. `cd ~`", 2)
        place = place_of(error)  # in the user's own code, which the driver calls for the data
        text = one_line(f"{f'{place}: ' if place else ''}{type(error).__name__}: {error}")
        _fail(f"{text} (run again with --debug for the traceback)", 1)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # only the interpreter's own end is left, in milliseconds


def _has_working_directory() -> bool:
    try:
        return os.path.isdir(os.getcwd())
    except FileNotFoundError:
        return False


def with_options(error: SamtuneError) -> str:
    """The message of an error, with options where the library names arguments."""
    if not isinstance(error, UsageError) or error.argument is None:
        return str(error)
    text = error.named(option_of(error.argument))
    return re.sub("`(storage_path|tracking_uri)`", lambda name: option_of(name[1]), text)


def option_of(argument: str) -> str:
    """`--storage-path` for `storage_path`."""
    return "--" + argument.replace("_", "-")


def _fail(message: str, code: int) -> None:
    from samtune.tracking.credentials import redact_text

    for line in redact_text(message).splitlines() or [""]:  # a search space has a line for each problem
        print(f"samtune: error: {line}", file=sys.stderr)
    sys.exit(code)
