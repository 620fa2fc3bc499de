"""`samtune best`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from samtune.cli.options import OUTPUT, SEARCH, Debug, StoragePath, option, print_or_write


def best(
    name: Annotated[str, typer.Argument(help="Name of the study.")],
    output: Annotated[Path | None, option(OUTPUT, "Write it to this file instead of stdout.", "-o", "--output")] = None,
    trial: Annotated[int | None, option(SEARCH, "Take this trial instead of the best.", "--trial", min=0)] = None,
    storage_path: StoragePath = None,
    debug: Debug = False,
) -> None:
    """Write the best configuration as a space that train, confirm and search take as it is.

    Where `confirm` has run, the best is the one that it found.
    """
    from samtune.experiments.best import best_yaml

    text = best_yaml(name, storage_path, trial=trial)
    print_or_write(text, output, f"`samtune train {output}` trains it, `samtune confirm {output}` tests it")
