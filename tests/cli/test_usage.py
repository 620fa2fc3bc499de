"""The command line without a search: help, spaces, dry runs, and every bad input with its line and exit code."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.command import Run

from samtune import __version__
from samtune.cli.app import with_options
from samtune.errors import RunError, TrackingError, UsageError

DIGITS = ("search", "--space", "digits.yaml")


def one_line(done: subprocess.CompletedProcess[str], code: int = 2) -> str:
    """The single line of a refusal."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("samtune: error: ")
    return lines[0]


def test_help_answers_fast_because_it_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['samtune', '--help']\n"
        "from samtune.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'ray', 'mlflow', 'optuna', 'numpy', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "search" in done.stdout
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_the_version_for_a_bug_report_has_those_of_the_libraries(samtune: Run) -> None:
    secret = {"MLFLOW_TRACKING_PASSWORD": "hush", "OMP_NUM_THREADS": "3"}
    short, long = samtune("--version"), samtune("--version", "--debug", env=secret)
    assert (short.returncode, long.returncode) == (0, 0), long.stderr
    first, *lines = long.stdout.splitlines()
    assert short.stdout == f"{first}\n" == f"samtune {version('samtune')}\n"
    assert samtune("-V").stdout == short.stdout
    assert __version__ == version("samtune")
    shown = dict(line.split(None, 1) for line in lines)
    assert (shown["ray"], shown["torch"], shown["OMP_NUM_THREADS"]) == (version("ray"), version("torch"), "3")
    assert float(shown["cpus"]) >= 1
    assert "hush" not in long.stdout


def test_spaces_lists_the_built_in_spaces_with_a_line_each(samtune: Run) -> None:
    done = samtune("spaces")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    spaces = dict(line.strip().split("  ", 1) for line in lines if line.startswith("  "))
    assert {"digits.yaml", "cifar.yaml", "sam/table2_imagenet_resnet50.yaml", "universal/cifar10_s.yaml"} <= set(spaces)
    assert all(len(text) > 20 for text in spaces.values())
    titles = [line for line in lines if line and not line.startswith("  ")]
    assert titles[0] == "samtune"
    assert "Foret" in titles[1]
    assert "Tahmasebi" in titles[2]


def test_a_dry_run_shows_the_plan_and_starts_nothing(samtune: Run, tmp_path: Path) -> None:
    ray = tmp_path / "ray"
    done = samtune(*DIGITS, "--dry-run", "--num-trials", "5", "--set", "method.m=16", env={"RAY_TMPDIR": str(ray)})
    assert done.returncode == 0, done.stderr
    for expected in ("digits", "method.rho", "log_uniform", "5 trials", "24", "120"):
        assert expected in done.stdout, (expected, done.stdout)
    assert list(tmp_path.iterdir()) == []  # no session of Ray either


def test_a_dry_run_as_json_is_one_object(samtune: Run) -> None:
    done = samtune(*DIGITS, "--dry-run", "--json", "--set", "resources.cpus_per_worker=0.25")
    plan = json.loads(done.stdout)
    assert plan["num_trials"] == 16
    assert plan["passes_per_step"] == [2.0, 2.0]
    assert plan["total_passes"] == [16 * 2 * 12, 16 * 2 * 12]
    assert plan["num_groups"] >= 2
    assert plan["num_train"] + plan["num_validation"] < 1797


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("search", "--space", "nowhere.yaml"), "nowhere.yaml: no such search space"),
        ((*DIGITS, "--set", "training.epoch=3"), "training.epoch: unknown key; did you mean 'epochs'?"),
        ((*DIGITS, "--set", "training.lr=-1"), "training.lr: must be greater than 0 (got -1)"),
        ((*DIGITS, "--set", "search.method.rho={log_uniform: [1, 0.1]}"), "search.method.rho: low must be less than"),
        ((*DIGITS, "--set", "search.method.rho={log_uniform: [1, 1]}"), "is empty"),
        ((*DIGITS, "--set", "method.m=24"), "24"),
        ((*DIGITS, "--set", "training.batch_size=63"), "63"),
        ((*DIGITS, "--set", "training.batch_size=4096"), "must not exceed the training examples (4096 > "),
        ((*DIGITS, "--set", "resources.cpus_per_worker=100000"), "can never be placed"),
        ((*DIGITS, "--num-trials", "0"), "digits.yaml with --num-trials: must be greater than or equal to 1 (got 0)"),
        (
            (*DIGITS, "--num-workers", "0"),
            "digits.yaml with --num-workers: must be greater than or equal to 1, or 'auto' (got 0)",
        ),
        ((*DIGITS, "--set", "seed=-1"), "digits.yaml with --set seed: must be greater than or equal to 0 (got -1)"),
        ((*DIGITS, "--storage-path", "s3://bucket/x"), "--storage-path s3://bucket/x"),
        (("search", "--space", "cifar.yaml"), "data"),
        ((*DIGITS, "--set", "warm_start=[nowhere]"), "warm_start.0: "),
        ((*DIGITS, "--set", "sampler=tpee"), "sampler: unknown name 'tpee'; did you mean 'tpe'?"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(samtune: Run, arguments: tuple[str, ...], message: str) -> None:
    assert message in one_line(samtune(*arguments, "--dry-run"))


def test_a_dry_run_refuses_a_name_that_is_taken(samtune: Run, tmp_path: Path) -> None:
    (tmp_path / "samtune-results" / "had").mkdir(parents=True)
    assert "--name had: a study of that name" in one_line(samtune(*DIGITS, "--name", "had", "--dry-run"))


def test_yaml_that_does_not_parse_names_line_and_column(samtune: Run, tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("name: x\ntraining: {epochs: 3\nseed: 1\n")
    assert "broken.yaml:3:5: not valid YAML" in one_line(samtune("search", "--space", "broken.yaml"))


def test_a_missing_data_set_says_which_files_were_looked_for(samtune: Run, tmp_path: Path) -> None:
    line = one_line(samtune("search", "--space", "cifar.yaml", "--set", "data.root=somewhere"))
    assert "somewhere" in line
    assert "cifar-10-batches-py" in line
    assert ".parquet" in line


def test_a_parquet_file_without_the_columns_is_refused(samtune: Run, tmp_path: Path) -> None:
    for split in ("train", "test"):
        pq.write_table(pa.table({"picture": [b""], "label": [0]}), tmp_path / f"{split}-00000-of-00001.parquet")
    line = one_line(samtune("search", "--space", "cifar.yaml", "--set", "data.root=."))
    assert "img" in line
    assert "parquet" in line


def test_a_tracking_server_that_does_not_answer_is_refused_before_any_worker_starts(samtune: Run) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = one_line(samtune(*DIGITS, "--tracking-uri", f"http://127.0.0.1:{port}"))
    assert f"http://127.0.0.1:{port}" in line


def test_a_study_s_name_is_used_once(samtune: Run, tmp_path: Path) -> None:
    (tmp_path / "samtune-results" / "mine").mkdir(parents=True)
    assert "mine" in one_line(samtune(*DIGITS, "--name", "mine"))


def test_a_cluster_that_does_not_answer_is_refused(samtune: Run) -> None:
    line = one_line(samtune(*DIGITS, "--address", "127.0.0.1:1"))
    assert "--address 127.0.0.1:1: no Ray cluster answers" in line
    assert "must be host:port" in one_line(samtune(*DIGITS, "--address", "ray://127.0.0.1:1"))


def test_an_option_that_does_not_exist_is_exit_code_2(samtune: Run) -> None:
    done = samtune("search", "--spice", "digits.yaml")
    assert done.returncode == 2
    assert "--spice" in done.stderr


def test_debug_shows_the_traceback(samtune: Run) -> None:
    done = samtune("search", "--space", "nowhere.yaml", "--debug")
    assert done.returncode != 0
    assert "Traceback" in done.stderr


def test_a_ui_of_nothing_is_refused_and_leaves_nothing(samtune: Run, tmp_path: Path) -> None:
    line = one_line(samtune("ui", "--storage-path", "nowhere"))
    assert "--storage-path nowhere: no search has logged anything there" in line
    assert not (tmp_path / "nowhere").exists()


def test_an_argument_of_the_library_is_an_option_of_the_command_line() -> None:
    assert with_options(UsageError("is taken", argument="port", value=5000)) == "--port 5000: is taken"
    error = TrackingError("cannot hold it; give `tracking_uri`", argument="storage_path", value="s3://tracking_uri/x")
    assert with_options(error) == "--storage-path s3://tracking_uri/x: cannot hold it; give --tracking-uri"
    assert str(error) == "storage_path s3://tracking_uri/x: cannot hold it; give `tracking_uri`"
    assert with_options(RunError("no `tracking_uri`")) == "no `tracking_uri`"
