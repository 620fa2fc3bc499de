"""`samtune validate` and `samtune schema`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from samtune import SearchSpace
from samtune.config.notes import notes_on

SPACE = """
name: small
data: {name: digits}
model: {name: mlp}
training: {epochs: 1, batch_size: 32, lr: 0.1}
method: {name: sgd}
"""


def samtune(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "samtune", *arguments], capture_output=True, text=True, check=False)


def test_a_valid_space_is_told_with_what_it_searches() -> None:
    done = samtune("validate", "digits.yaml", "--set", "constraints=['method.rho < training.lr']")
    assert done.returncode == 0
    assert "digits.yaml: valid; 16 trials, 3 searched keys" in done.stdout
    assert "  method.rho             log_uniform 0.01 … 0.5\n" in done.stdout
    assert "  where method.rho < training.lr\n" in done.stdout
    report = json.loads(samtune("validate", "digits.yaml", "--json").stdout)
    assert (report["valid"], report["num_trials"]) == (True, 16)
    assert report["searched"]["training.lr"] == "log_uniform 0.01 … 0.5"


def test_a_space_that_searches_nothing_says_so(tmp_path: Path) -> None:
    path = tmp_path / "fixed.yaml"
    path.write_text(f"{SPACE}num_trials: 1\n")
    assert samtune("validate", str(path)).stdout.splitlines()[0] == f"{path}: valid; 1 trial, nothing is searched"


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("name: bad\ndata: {name: digits}\nmodel: {name: digits_cnn}\nmethod: {name: sam, roh: 0.1}\n")
    line = f"{path}:4: method.roh: unknown key; did you mean 'rho'?"
    done = samtune("validate", str(path))
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"samtune: error: {line}\n")
    as_json = samtune("validate", str(path), "--json")
    assert (as_json.returncode, json.loads(as_json.stdout)) == (2, {"valid": False, "error": line})
    missing = samtune("validate", "digits.yaml", "--set", "sampler={name: no_such_package:Sampler}")
    assert missing.returncode == 2
    assert "sampler.name: no_such_package:Sampler: cannot be imported" in missing.stderr


def test_what_a_search_would_refuse_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(
        SPACE + "search: {training.optimizer: {choice: [sgd, adamw]}, training.nesterov: {choice: [true]}}\n"
    )
    combination = samtune("validate", str(path))
    assert combination.returncode == 2
    assert "nesterov needs optimizer sgd" in combination.stderr
    assert combination.stderr == samtune("search", "--space", str(path), "--dry-run").stderr
    path.write_text(SPACE + "search: {training.batch_size: {choice: [64, 2048]}}\n")
    batch = samtune("validate", str(path))
    assert "training.batch_size: must not exceed the training examples (2048 > 1294" in batch.stderr
    assert batch.stderr == samtune("search", "--space", str(path), "--dry-run").stderr


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("search: {training.lr: {choice: [1, 2, 3]}}\nsampler: grid\nnum_trials: 2\n", "num_trials 2 is less than"),
        ("search: {training.lr: {choice: [1, 2, 3]}}\nsampler: grid\nnum_trials: 3\n", None),
        (
            "search: {training.lr: {choice: [1, 2]}}\ninitial: [{training.lr: 1}, {training.lr: 2}]\nnum_trials: 1\n",
            "only 1 of the 2 initial points are tried",
        ),
    ],
)
def test_what_too_few_trials_leave_out_is_told(text: str, line: str | None) -> None:
    lines = notes_on(SearchSpace.from_text(SPACE + text, "space.yaml"))
    assert [told.startswith(line or "") for told in lines] == [True] * (line is not None)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            ["training.optimizer=rmsprop", "search={training.momentum: {uniform: [0.5, 0.9]}}"],
            "training.momentum is searched without effect: optimizer rmsprop does not take it; search an option",
        ),
        (
            [
                "training.optimizer={name: adamw, betas: [0.9, 0.95]}",
                "search={training.momentum: {choice: [0.5, 0.9]}}",
            ],
            "training.momentum is searched without effect: the optimizer's option betas takes its place",
        ),
        (["training.optimizer=adamw", "search={training.momentum: {uniform: [0.5, 0.9]}}"], None),
        (  # one optimizer of those that are searched takes it
            ["search={training.momentum: {choice: [0.5, 0.9]}, training.optimizer: {choice: [adagrad, sgd]}}"],
            None,
        ),
        (
            ["search={training.momentum: {choice: [0.5, 0.9]}, training.optimizer: {choice: [adagrad, rprop]}}"],
            "training.momentum is searched without effect: optimizer adagrad does not take it",
        ),
        (
            ["training.optimizer=rprop", "search={training.weight_decay: {log_uniform: [1e-5, 1e-2]}}"],
            "training.weight_decay is searched without effect: optimizer rprop has none",
        ),
        (
            ["training.weight_decay=0", "search={training.decay_norms_and_biases: {choice: [true, false]}}"],
            "training.decay_norms_and_biases is searched without effect: weight_decay is 0",
        ),
        (
            ["search={training.decay_factor: {uniform: [0.1, 0.5]}}"],
            "training.decay_factor is searched without effect: schedule cosine does not use it",
        ),
        (
            [
                "training.schedule=multi_step",
                "training.milestones=[1]",
                "training.epochs=2",
                "search={training.decay_factor: {uniform: [0.1, 0.5]}}",
            ],
            None,
        ),
    ],
)
def test_a_key_that_is_searched_without_effect_is_told(settings: list[str], line: str | None) -> None:
    lines = notes_on(SearchSpace.from_text(SPACE, "space.yaml", settings))
    assert [told.startswith(line or "") for told in lines] == [True] * (line is not None)


def test_the_notes_are_in_the_plan_and_in_what_validate_prints(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(SPACE + "search: {training.decay_factor: {uniform: [0.1, 0.5]}}\n")
    note = "training.decay_factor is searched without effect: schedule cosine does not use it"
    assert f"  note: {note}\n" in samtune("validate", str(path)).stdout
    assert json.loads(samtune("validate", str(path), "--json").stdout)["notes"] == [note]
    planned = samtune("search", "--space", str(path), "--dry-run", "--json")
    assert json.loads(planned.stdout)["notes"] == [note]


def test_data_that_are_elsewhere_are_not_checked(tmp_path: Path) -> None:
    where = f"data={{name: cifar10, root: {tmp_path}}}"
    done = samtune("validate", "cifar.yaml", "--set", where)
    assert done.returncode == 0, done.stderr
    assert f"  not checked: cifar10 is not in {tmp_path}: " in done.stdout
    assert json.loads(samtune("validate", "cifar.yaml", "--set", where, "--json").stdout)["unchecked"]


def test_the_schema_is_json() -> None:
    schema = json.loads(samtune("schema").stdout)
    assert schema["properties"]["method"]["anyOf"]
