"""What a search is going to do, for people (`--dry-run`)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from samtune.formatting import counted, format_config, format_number
from samtune.terminal.console import make_console

if TYPE_CHECKING:
    from samtune.experiments.plan import Plan

_MAX_FILES = 20


def format_plan(plan: Plan) -> list[tuple[str, str]]:
    """The plan as (what, value) lines."""
    workers = f"{plan.num_workers} x {format_number(plan.cpus_per_worker)} CPU"
    if plan.gpus_per_worker:
        workers += f" + {format_number(plan.gpus_per_worker)} GPU"
    if 0 < plan.gpus_per_worker < 1:
        workers += f", {math.floor(1 / plan.gpus_per_worker + 1e-9)} on a card"
    waiting = f" ({plan.num_waiting} of them wait for nodes)" if plan.num_waiting else ""
    repeated = f", each trial {plan.repeats} times with seeds of its own" if plan.repeats > 1 else ""
    repeated += f", each trial on {_range(plan.folds)} folds" if plan.folds[1] > 1 else ""
    steps = f" of {_range(plan.steps_per_epoch)} steps" if plan.steps_per_epoch else ""
    lines = [
        ("study", f"{plan.name}: {counted(plan.num_trials, 'trial')}, {plan.objective}"),
        *([("data", _data(plan)), ("model", plan.model)] if plan.train is None else [("train", plan.train)]),
        ("method", f"{plan.method}, m = {plan.group_size}"),
        ("batch", f"{_range(plan.batch_size)} examples, {_range(plan.batch_per_worker)} per worker"),
        ("epochs", f"{_range(plan.epochs)}{steps}{repeated}"),
        ("passes", f"{_range(plan.passes_per_step)} per step, {_range(plan.passes_per_trial)} per trial"),
        ("total passes", f"{_range(plan.total_passes)} over the training set"),
        *([("budget", f"{plan.budget}: what is reached first ends the search")] if plan.budget else []),
        ("workers", f"{counted(plan.num_groups, 'group')} side by side, each {workers}{waiting}"),
        *[("", reason) for reason in (plan.worker_choice, plan.card_sharing) if reason],
        *([("precision", _precision(plan.precision))] if plan.gpus_per_worker else []),
        ("sampler", f"{plan.sampler}, scheduler {plan.scheduler}, seed {plan.seed}"),
    ]
    lines += [("searched" if i == 0 else "", f"{k}: {text}") for i, (k, text) in enumerate(plan.searched.items())]
    lines += [("tried first" if i == 0 else "", format_config(point)) for i, point in enumerate(plan.initial)]
    lines += [("note", note) for note in plan.notes]
    lines += [("imports" if i == 0 else "", function) for i, function in enumerate(plan.functions)]
    lines += [("to a cluster" if i == 0 else "", file) for i, file in enumerate(plan.files[:_MAX_FILES])]
    if len(plan.files) > _MAX_FILES:
        lines.append(("", f"and {len(plan.files) - _MAX_FILES} more files (--json names them)"))
    return lines


def _precision(precision: str) -> str:
    """On GPUs. What a card has is known where it is, not here."""
    return precision.replace("auto", "bf16 on cards that have it, else fp32")


def _data(plan: Plan) -> str:
    if plan.is_stream:
        beside = "" if plan.num_validation is None else f", {plan.num_validation:,} validation examples"
        return f"{plan.data}: an iterable{beside}"
    if plan.num_train is None or plan.num_validation is None:
        return f"{plan.data}: the search calls this function, and then knows how many examples there are"
    return f"{plan.data}: {plan.num_train:,} training and {plan.num_validation:,} validation examples"


def print_plan(plan: Plan, console: Console | None = None) -> None:
    """Prints the plan."""
    console = console or make_console()
    grid = Table.grid(padding=(0, 2, 0, 0))
    for what, value in format_plan(plan):
        grid.add_row(Text(what, style="bold"), Text(value, overflow="fold"))
    console.print(grid)


def _range(ends: tuple[float, float]) -> str:
    low, high = (f"{end:,.6g}" for end in ends)
    return low if low == high else f"{low} to {high}"
