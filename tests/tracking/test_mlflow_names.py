"""MLflow's undocumented side: what samtune uses of it is there, and one module uses it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from helpers.undocumented import problem_of, problem_of_variable
from mlflow.utils import mlflow_tags

from samtune.tracking import mlflow_names
from samtune.undocumented import Undocumented, Variable

PACKAGE = Path(__file__).parents[2] / "samtune"
PUBLIC = {"mlflow", "mlflow.entities", "mlflow.exceptions", "mlflow.models"}


@pytest.mark.parametrize("name", mlflow_names.NAMES, ids=lambda name: name.path)
def test_the_name_is_there_and_takes_the_call(name: Undocumented) -> None:
    assert problem_of(name) is None


@pytest.mark.parametrize("variable", mlflow_names.VARIABLES, ids=lambda variable: variable.name)
def test_the_variable_is_read_where_it_was(variable: Variable) -> None:
    assert problem_of_variable(variable) is None


@pytest.mark.parametrize("tag", ["LOGGED_ARTIFACTS", "PARENT_RUN_ID", "RUN_NOTE", "SOURCE_NAME", "USER"])
def test_the_tags_are_mlflow_s(tag: str) -> None:
    assert getattr(mlflow_names, tag) == getattr(mlflow_tags, f"MLFLOW_{tag}")


def test_the_primary_metric_is_mlflow_s() -> None:
    assert mlflow_names.PRIMARY_METRIC == mlflow_tags.MLFLOW_EXPERIMENT_PRIMARY_METRIC_NAME


def test_only_one_module_imports_what_mlflow_does_not_document() -> None:
    found = {
        f"{file.relative_to(PACKAGE)}: {module}"
        for file in PACKAGE.rglob("*.py")
        if file != PACKAGE / "tracking/mlflow_names.py"
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        for module in modules(node)
        if module.split(".")[0] == "mlflow" and module not in PUBLIC
    }
    assert found == set()


def modules(node: ast.AST) -> list[str]:
    match node:
        case ast.Import(names=aliases):
            return [alias.name for alias in aliases]
        case ast.ImportFrom(module=str(module)):
            return [module]
    return []
