"""The end of a confirmation, for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from samtune.config.library_model import library_of
from samtune.experiments.confirmed_study import confirmation_commands, confirmation_lines, format_best_candidate
from samtune.experiments.summary import format_outcome
from samtune.terminal.failures import print_failures
from samtune.user_code import PREFIX

if TYPE_CHECKING:
    from samtune.experiments.confirmation import Confirmation
    from samtune.study import Study


def print_loading(console: Console, study: Study) -> None:
    """The lines of Python that the kept weights of a confirmation or a training take."""
    from samtune.store.study_folder import weights_file

    weights = json.dumps(weights_file(study), ensure_ascii=False)
    if any(trial.params.get("train") for trial in study):  # only the training function can build the network
        console.print("  from safetensors.torch import load_file", soft_wrap=True)
        console.print(f"  model.load_state_dict(load_file({weights}))", soft_wrap=True)
        return
    console.print("  from samtune import load_model", soft_wrap=True)
    first = study.trials[0].params
    name = str(first.get("model.name", ""))
    module, _, function = name.partition(":")
    if function and library_of(name) is None:  # the user's, who has it at hand where it is not in a module
        if (module := module.removesuffix(".py")) != PREFIX.rstrip(":") and "/" not in module:
            console.print(f"  from {module} import {function}", soft_wrap=True)
        weights += f", model={function}"
    console.print(f"  model = load_model({weights})", soft_wrap=True)
    what = "as your data gives them" if ":" in str(first.get("data.name", "")) else "float32 [N, C, H, W] in [0, 1]"
    console.print(f"  logits = model(images)  # {what}", soft_wrap=True)


def print_confirmation(console: Console, confirmation: Confirmation, again: str, *, debug: bool = False) -> None:
    """The table, what it means, and how to load the best weights.

    Args:
        again: the command that trains the missing replicas.
        debug: also prints the tracebacks of trials that failed.
    """

    study = confirmation.study
    console.print()
    console.print(Text(format_outcome(study), style="bold"), soft_wrap=True)
    print_confirmed_table(console, confirmation)
    print_failures(console, study, debug=debug)
    if confirmation.best is not None:
        console.print(Text(format_best_candidate(confirmation), style="bold"), soft_wrap=True)
    for line in confirmation_lines(confirmation)[1:]:  # the first says the same
        console.print(f"  {line}", soft_wrap=True)
    if confirmation.num_missing:
        missing = f"{confirmation.missing}; `{again}` resumes what was interrupted"
        console.print(Text(missing, style="yellow"), soft_wrap=True)
    elif confirmation.best is not None:
        console.print(f"the best weights ({confirmation.best.label}), in Python:")
        print_loading(console, study)
    console.print(f"kept in {study.storage_path}", soft_wrap=True)
    print_next(console, confirmation_commands(study))


def print_next(console: Console, commands: Sequence[tuple[str, str]]) -> None:
    """What can be done next: (command, what it does); nothing where there is none."""
    if commands:
        console.print("what next:")
        for command, what in commands:
            console.print(f"  {command}  # {what}", soft_wrap=True)


def print_confirmed_table(console: Console, confirmation: Confirmation) -> None:
    """Each candidate with its interval and its difference to the baseline, and what the columns are."""
    from samtune.experiments.confirmation import CAPTION, table

    header, rows = table(confirmation)
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) + 2 for column in columns]
    for optional in ("passes", "search", "n", "gap"):  # left out where there is no room
        if sum(widths) + 2 > console.width:
            index = [column[0] for column in columns].index(optional)
            del columns[index], widths[index]
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold", show_edge=False)
    for index, column in enumerate(columns):
        shown.add_column(column[0], justify="right" if index else "left", overflow="fold")
    for row in zip(*(column[1:] for column in columns), strict=True):
        shown.add_row(*map(Text, row))
    console.print(Padding(shown, (1, 0, 1, 2), expand=False))
    console.print(Text(CAPTION, style="dim"))
