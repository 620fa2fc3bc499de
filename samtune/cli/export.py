"""`samtune export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from samtune.cli.options import Debug, StoragePath
from samtune.errors import UsageError
from samtune.formatting import spreadsheet_cell

if TYPE_CHECKING:
    import pyarrow as pa


def export(
    name: Annotated[str, typer.Argument(help="Name of the study.")],
    file: Annotated[Path, typer.Argument(help="What to write: .parquet or .csv.")],
    storage_path: StoragePath = None,
    debug: Debug = False,
) -> None:
    """Write a study as a table, one row per trial and epoch, for pandas, Arrow, DuckDB or a spreadsheet."""
    if file.suffix not in (".parquet", ".csv"):
        raise UsageError(f"{file}: must end in .parquet or .csv")
    from samtune.experiments.results import Results

    table = Results.load(name, storage_path).to_arrow()
    try:
        if file.suffix == ".parquet":
            from pyarrow import parquet

            parquet.write_table(table, file)
        else:
            from pyarrow import csv

            csv.write_csv(_for_spreadsheets(table), file)
    except OSError as error:
        raise UsageError(f"{file}: cannot be written: {error}") from error
    typer.echo(f"{file}: {table.num_rows} rows, {table.num_columns} columns")


def _for_spreadsheets(table: pa.Table) -> pa.Table:
    """The table with no text in it that a spreadsheet would take for a formula."""
    import pyarrow as pa

    columns = [
        pa.array([cell and spreadsheet_cell(cell) for cell in column.to_pylist()], pa.string())
        if pa.types.is_string(column.type)
        else column
        for column in table.columns
    ]
    return pa.table(columns, [spreadsheet_cell(name) for name in table.column_names])
