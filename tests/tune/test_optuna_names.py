"""Optuna's private side: one name, in one module."""

from __future__ import annotations

import ast
from pathlib import Path

import optuna
import pytest
from helpers.undocumented import problem_of

from samtune.tune.optuna_names import NAMES, reopen_trial
from samtune.undocumented import Undocumented

PACKAGE = Path(__file__).parents[2] / "samtune"


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name.path)
def test_the_name_is_there_and_takes_the_call(name: Undocumented) -> None:
    assert problem_of(name) is None


def test_no_other_module_uses_it() -> None:
    users = {
        str(file.relative_to(PACKAGE))
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Attribute) and node.attr == "_trial_id")
        or (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("optuna.") and "._" in str(node.module))
    }
    assert users == {"tune/optuna_names.py"}


def test_a_trial_that_was_asked_for_is_reopened() -> None:
    study = optuna.create_study()
    asked = study.ask()
    asked.suggest_float("x", 0.0, 1.0)
    (frozen,) = study.get_trials()
    again = reopen_trial(study, frozen)
    again.report(0.5, step=1)
    study.tell(again, 0.25)
    (told,) = study.trials
    assert (told.number, told.params, told.intermediate_values, told.value) == (0, asked.params, {1: 0.5}, 0.25)
