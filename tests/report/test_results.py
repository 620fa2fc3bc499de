"""Results of a study: what is best, what matters, and the tables that leave samtune."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow as pa
import pytest
from helpers.studies import METHODS, make_confirmation, make_large_study, make_study
from pyarrow import csv, parquet
from typer.testing import CliRunner

from samtune.cli.app import app
from samtune.errors import RunError, UsageError
from samtune.experiments.importances import estimated_importances
from samtune.experiments.results import Results
from samtune.study import EpochLog, Objective, TrialState


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    storage = tmp_path_factory.mktemp("studies")
    make_study(storage)
    make_study(storage, name="methods", methods=METHODS)
    return storage


def test_loaded_results_are_those_of_the_study(storage: Path) -> None:
    results = Results.load("digits-1", storage)
    assert len(results) == 12
    completed = [trial for trial in results if trial.state is TrialState.COMPLETED]
    assert results.best is max(completed, key=lambda trial: trial.metrics["val_accuracy"])
    assert results.pareto == [results.best]


def test_a_study_that_is_not_there_is_a_usage_error_with_the_nearest_name(storage: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'digits-1'"):
        Results.load("digits-2", storage)


def test_the_table_has_a_row_per_trial_and_epoch_with_typed_columns(storage: Path) -> None:
    results = Results.load("digits-1", storage)
    table = results.to_arrow()
    assert table.num_rows == 9 * 4 + 2 * 2 + 1  # nine completed, two stopped after 2 epochs, one failed after 1
    types = {name: table.schema.field(name).type for name in table.column_names}
    assert types["trial"] == types["epoch"] == types["training.epochs"] == pa.int64()
    assert types["training.nesterov"] == pa.bool_()
    assert types["method.rho"] == types["training.weight_decay"] == types["val_accuracy"] == pa.float64()
    assert types["method.m"] == pa.string()  # 32 in some trials, "worker" in others
    rows = [row for row in table.to_pylist() if row["trial"] == results.best.number]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert [row["val_accuracy"] for row in rows] == [record["val_accuracy"] for record in results.best.history]


def test_a_trial_without_an_epoch_keeps_a_row(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    study.trials[3].history = EpochLog()
    row = next(row for row in Results(study).to_arrow().to_pylist() if row["trial"] == 3)
    assert row["epoch"] is None
    assert row["val_accuracy"] is None
    assert row["method.rho"] == study.trials[3].config["method.rho"]


def test_a_key_that_a_trial_does_not_have_is_null(storage: Path) -> None:
    for row in Results.load("methods", storage).to_arrow().to_pylist():
        assert (row["method.rho"] is None) == (row["method.name"] == "sgd")


def test_importances_sum_to_one_and_name_the_key_that_matters(storage: Path) -> None:
    importances = Results.load("digits-1", storage).importances()
    assert set(importances) == {"method.rho", "training.lr"}
    assert math.isclose(sum(importances.values()), 1.0)


def test_importances_are_told_more_exactly_by_more_trials() -> None:
    few, many = (make_large_study(number, num_keys=1).estimated_importances() for number in (30, 600))
    assert few.keys() == many.keys()
    for found in (few, many):
        assert math.isclose(sum(each.value for each in found.values()), 1.0)
    assert many["training.lr"].value > many["method.rho"].value > many["training.key_0"].value
    for key, each in many.items():
        assert 0 < each.standard_error < few[key].standard_error


def test_the_errors_of_importances_are_those_of_trials_drawn_again() -> None:
    """Trials that are all alike but for one key leave nothing to chance: every draw says the same."""
    import optuna

    told = optuna.create_study(direction="maximize")
    kinds = {"a": optuna.distributions.FloatDistribution(0, 1), "b": optuna.distributions.FloatDistribution(0, 1)}
    for index in range(20):
        params = {"a": float(index % 2), "b": 0.5}
        told.add_trial(optuna.trial.create_trial(params=params, distributions=kinds, value=params["a"]))
    found = estimated_importances(told, maximize=True)
    assert found["b"].value < 0.01
    assert found["a"].standard_error < 0.01
    assert len(told.trials) == 20


def test_a_confirmation_has_no_importances(tmp_path: Path) -> None:
    """Its keys are `candidate` and `replica`: a seed is not what matters."""
    make_confirmation(tmp_path, {"a": (0.9, 0.91), "b": (0.8, 0.81)}, replicas=2)
    results = Results.load("digits-1-confirm", tmp_path)
    for ask in (results.importances, results.estimated_importances):
        with pytest.raises(RunError, match=r"^a confirmation repeats its candidates; nothing was searched$"):
            ask()


def test_a_damaged_file_of_optuna_is_named(tmp_path: Path) -> None:
    make_study(tmp_path)
    file = tmp_path / "digits-1" / "optuna.journal"
    file.write_text("junk\n" + file.read_text())
    with pytest.raises(UsageError, match=f"{file}: is damaged"):
        Results.load("digits-1", tmp_path).importances()


def test_importances_of_two_objectives_are_those_of_the_first(tmp_path: Path) -> None:
    make_study(tmp_path, objectives=(Objective(), Objective("sharpness", "min")))
    results = Results.load("digits-1", tmp_path)
    assert set(results.importances()) == {"method.rho", "training.lr"}
    assert {results.best.number} <= {trial.number for trial in results.pareto}
    assert len(results.pareto) > 1


def test_importances_of_too_few_trials_are_an_error_that_says_so(tmp_path: Path) -> None:
    make_study(tmp_path, num_trials=1)
    with pytest.raises(RunError, match="digits-1: no importances"):
        Results.load("digits-1", tmp_path).importances()


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_export_writes_the_table(storage: Path, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"out.{suffix}"
    done = CliRunner().invoke(app, ["export", "digits-1", str(file), "--storage-path", str(storage)])
    assert done.exit_code == 0, done.output
    read = parquet.read_table(file) if suffix == "parquet" else csv.read_csv(file)
    expected = Results.load("digits-1", storage).to_arrow()
    assert read.column_names == expected.column_names
    assert read["val_accuracy"].to_pylist() == expected["val_accuracy"].to_pylist()


def test_export_refuses_another_format_before_it_reads_anything(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export", "digits-1", str(tmp_path / "out.xlsx")])
    assert isinstance(done.exception, UsageError)
    assert r".parquet or .csv" in str(done.exception)
