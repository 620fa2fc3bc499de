"""`samtune logs`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from samtune.cli.options import OUTPUT, SEARCH, Debug, StoragePath, option
from samtune.cli.passwords import ask_for_secret
from samtune.errors import UsageError

if TYPE_CHECKING:
    from samtune.study import Study, Trial


def logs(
    name: Annotated[str, typer.Argument(help="Name of the study.")],
    trial: Annotated[int | None, typer.Argument(help="Number of a trial. Default: lists those that printed.")] = None,
    worker: Annotated[int, option(SEARCH, "Which worker's, of a trial on several.", "--worker", min=0)] = 0,
    mlflow: Annotated[
        bool,
        option(
            OUTPUT, "Also log it to MLflow, as output.txt of the trial's run; without a trial number, for all trials."
        ),
    ] = False,
    storage_path: StoragePath = None,
    debug: Debug = False,
) -> None:
    """Show what a trial's own code printed and warned, and why it failed; also of a running study."""
    from samtune.experiments.outputs import output_sizes
    from samtune.store.study_files import check_links
    from samtune.store.study_folder import study_folder

    folder = study_folder(storage_path, name)
    study = folder.read()
    check_links(folder.local)
    sizes = output_sizes(study)
    found = [each for each in study if each.id in sizes]
    if trial is None:
        _list(study, found, sizes)
    else:
        found = [_find(study, trial)]
        _print(study, found[0], worker, sizes.get(found[0].id, {}))
    if mlflow:
        _log(study, found, worker)


def _find(study: Study, number: int) -> Trial:
    for each in study:
        if each.number == number:
            return each
    last = f", the last is {study.trials[-1].number}" if study.trials else ": none has begun"
    raise UsageError(f"study {study.name} has no trial {number}{last}")


def _list(study: Study, found: list[Trial], sizes: dict[str, dict[int, int]]) -> None:
    from samtune.formatting import counted, format_bytes, printable

    if not found:
        typer.echo(f"no trial of {study.name} has printed anything", err=True)
        return
    for trial in found:
        of_workers = sizes[trial.id]
        on = f" on {counted(len(of_workers), 'worker')}" if len(of_workers) > 1 else ""
        error = f": {trial.error}" if trial.error else ""
        typer.echo(
            printable(f"trial {trial.number} ({trial.state}): {format_bytes(sum(of_workers.values()))}{on}{error}")
        )
    typer.echo(f"`samtune logs {study.name} {found[0].number}` shows one", err=True)


def _print(study: Study, trial: Trial, worker: int, sizes: dict[int, int]) -> None:
    from samtune.experiments.outputs import output_of
    from samtune.formatting import printable

    if text := output_of(study, trial, worker):
        typer.echo(printable(text), nl=not text.endswith("\n"))
    elif sizes:
        workers = ", ".join(map(str, sorted(sizes)))
        raise UsageError(f"--worker {worker}: trial {trial.number} printed on worker {workers} alone")
    elif not trial.error:
        typer.echo(f"trial {trial.number} ({trial.state}) has printed nothing", err=True)
    if trial.error:
        typer.echo(printable(f"trial {trial.number} {trial.state}: {trial.traceback or trial.error}".rstrip()))


def _log(study: Study, trials: list[Trial], worker: int) -> None:
    from samtune.experiments.outputs import output_of
    from samtune.formatting import counted
    from samtune.storage import parent
    from samtune.tracking import is_configured
    from samtune.tracking.credentials import redact
    from samtune.tracking.outputs import log_outputs

    if not study.is_own and not is_configured(study.tracking_uri, parent(study.storage_path)):
        raise UsageError(
            f"--mlflow: {redact(study.tracking_uri)}, the store of study {study.name}, is not this user's own"
        )
    ask_for_secret(study.tracking_uri)
    texts = {trial.id: text for trial in trials if (text := output_of(study, trial, worker))}
    number = log_outputs(study, texts)
    typer.echo(f"logged output.txt to {counted(number, 'run')} of {redact(study.tracking_uri)}", err=True)
