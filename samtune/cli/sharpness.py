"""`samtune sharpness`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from samtune.cli.options import OUTPUT, Code, Debug, Json, StoragePath, TrackingUri, Trust, option
from samtune.cli.trust import ask_to_trust
from samtune.errors import UsageError
from samtune.user_code import use_script

if TYPE_CHECKING:
    from samtune.experiments.sharpness.measures import Measured

WHAT = "What is measured"


def sharpness(
    subjects: Annotated[
        list[str],
        typer.Argument(
            help="A .safetensors file, a STUDY that has kept weights, STUDY/TRIAL, a checkpoint of a study, or the id "
            "of a trial's MLflow run. "
            "Several are compared.",
            metavar="NETWORK...",
        ),
    ],
    data: Annotated[str, option(WHAT, "Which examples: the trial's train, val or test split.")] = "train",
    num_examples: Annotated[int, option(WHAT, "Number of examples, drawn at random.", min=2)] = 1280,
    measures: Annotated[
        str,
        option(
            WHAT,
            "Of eigenvalues, trace, m_sharpness, adaptive, bound, universal, spectrum, line, surface, with commas; "
            "or all.",
        ),
    ] = "eigenvalues,trace,m_sharpness",
    m: Annotated[str, option(WHAT, "Group sizes of m-sharpness.")] = "16,64,256",
    rho: Annotated[float, option(WHAT, "Radius of m-sharpness and bound.")] = 0.05,
    steps: Annotated[int, option(WHAT, "Ascent steps of m-sharpness.")] = 1,
    delta: Annotated[float, option(WHAT, "Of the bound: the chance that it fails.")] = 0.05,
    loss_bound: Annotated[float, option(WHAT, "Of the bound: the largest value that the loss can take.")] = 1.0,
    zero_one: Annotated[
        bool, option(WHAT, "Bound the error rate, which lies in [0, 1], instead of the training loss.", "--zero-one")
    ] = False,
    probes: Annotated[
        int,
        option(WHAT, "Random probes of trace and Frobenius norm, directions of universal; spectrum takes 1/25."),
    ] = 100,
    radius: Annotated[float, option(WHAT, "Of line and surface, in lengths of the filters.")] = 0.5,
    seed: Annotated[int, option(WHAT, "Chooses examples, probes and directions.")] = 0,
    study_of_m: Annotated[
        bool,
        option(
            WHAT,
            "Instead: over the trials of a finished study, how well the m-sharpness that they measured "
            "(training.diagnostics) tells their generalisation gap. NETWORK is the study's name.",
            "--study-of-m",
        ),
    ] = False,
    plots: Annotated[Path, option(OUTPUT, "Folder for figures.")] = Path("sharpness"),
    plot_format: Annotated[Literal["png", "svg"], option(OUTPUT, "Of figures.")] = "png",
    storage_path: StoragePath = None,
    tracking_uri: TrackingUri = None,
    code: Code = None,
    trust: Trust = False,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Measure how sharp trained networks are: numbers, and pictures of their loss.

    A network given by its MLflow run is also logged to that run.
    """
    if study_of_m:
        _study_of_m(subjects, storage_path, plots / f"study_of_m.{plot_format}", json_)
        return
    if data not in ("train", "val", "test"):
        raise UsageError(f"--data {data}: must be train, val or test")
    sizes = [int(size) for size in m.split(",") if size.strip().isdecimal()]
    if not sizes or len(sizes) != len(m.split(",")):
        raise UsageError(f"--m {m}: must be whole numbers with commas, e.g. 16,64")
    if code is not None:
        use_script(code)
    from rich.markup import escape

    from samtune.experiments.sharpness.measures import Settings, check_measures, measure
    from samtune.experiments.sharpness.plots import write_plots
    from samtune.experiments.sharpness.subjects import Subject, load_subject
    from samtune.terminal import make_console

    settings = Settings(
        measures=check_measures([name.strip() for name in measures.split(",")]),
        m=sizes,
        rho=rho,
        steps=steps,
        delta=delta,
        loss_bound=loss_bound,
        zero_one=zero_one,
        num_probes=probes,
        radius=radius,
        seed=seed,
    )
    found: list[Measured] = []
    with make_console(stderr=True).status("") as status:
        for text in subjects:
            status.update(escape(text))

            def load(trust: bool, text: str = text) -> Subject:
                return load_subject(text, storage_path, tracking_uri, trust=trust)

            subject = ask_to_trust(load, trust)
            batches = subject.sample(data, num_examples, seed=seed)  # type: ignore[arg-type]

            def report(name: str, answer: str, subject_name: str = subject.name) -> None:
                status.update(escape(f"{subject_name}: {name} {answer}"))

            found.append(measure(subject, batches, settings, report))
    files = write_plots(found, plots, plot_format)
    if json_:
        print(
            json.dumps({"data": data, "subjects": [each.as_json() for each in found], "plots": [str(f) for f in files]})
        )
    else:
        _print_table(found, data)
        for file in files:
            typer.echo(str(file))
    for each in found:
        if each.subject.run is not None:
            numbers = {f"sharpness.{name.replace(' m=', '_')}": e.value for name, e in each.numbers.items()}
            each.subject.run.log(numbers, files, "sharpness")


def _study_of_m(names: list[str], storage_path: str | None, file: Path, json_: bool) -> None:
    from dataclasses import asdict

    from rich.markup import escape
    from rich.table import Table

    from samtune.experiments.sharpness.gap import Interval, relations, write_plot
    from samtune.store.study_folder import study_folder
    from samtune.terminal import make_console

    if len(names) != 1:
        raise UsageError(f"--study-of-m: takes the name of one study (got {len(names)})")
    found = relations(study_folder(storage_path, names[0]).read())
    file.parent.mkdir(parents=True, exist_ok=True)
    write_plot(found, file)
    if json_:
        print(json.dumps({"relations": [asdict(relation) for relation in found], "plots": [str(file)]}))
        return

    def cell(interval: Interval) -> str:
        return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"

    columns = ("measure", "Kendall's tau with the gap", "bits about its order", "share left", "given", "trials")
    table = Table(*columns, box=None, pad_edge=False)
    for relation in found:
        cells = (
            cell(relation.tau),
            cell(relation.information),
            f"{relation.least:.2f}",
            escape(", ".join(relation.given)),
        )
        table.add_row(relation.measure, *cells, str(relation.num_trials))
    make_console().print(table)
    typer.echo("in brackets: 95% bootstrap intervals over the trials; the gap is train_accuracy - val_accuracy")
    typer.echo(
        "share left: of what the given keys, at most two of the searched, leave to tell; the least (Jiang et al. 2020)"
    )
    typer.echo(str(file))


def _print_table(found: list[Measured], data: str) -> None:
    from rich.table import Table

    from samtune.formatting import format_metric, format_number
    from samtune.terminal import make_console

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(f"on {found[0].num_examples} {data} examples")
    for each in found:
        table.add_column(each.subject.name, justify="right")
    table.add_column("passes", justify="right")
    for name in ("train_accuracy", "val_accuracy"):
        if any(name in each.subject.metrics for each in found):
            table.add_row(name, *(format_metric(each.subject.metrics.get(name)) for each in found), "")
    for name in found[0].numbers:
        cells = []
        for each in found:
            estimate = each.numbers[name]
            known = estimate.standard_error == estimate.standard_error
            error = f" ± {format_number(estimate.standard_error, 2)}" if known else ""
            cells.append(format_number(estimate.value, 4) + error)
        table.add_row(name, *cells, format_number(found[0].numbers[name].passes))
    make_console().print(table)
    if found[0].bound:
        typer.echo("the bound holds if:")
        for assumption in found[0].bound.assumptions:
            typer.echo(f"  - {assumption}")
