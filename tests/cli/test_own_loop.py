"""A training function of the user's on the command line: the program of the documentation, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from helpers.command import Run, run_samtune

from samtune.docs import read_topic
from samtune.experiments.outputs import output_of
from samtune.experiments.results import Results
from samtune.study import TrialState

MARKING = """
import pathlib
pathlib.Path(__file__).with_name("imported").touch()


def train(trial): ...


def takes_two(trial, model): ...
"""


def documented(language: str, having: str) -> str:
    """The block of the page on own code that has this text."""
    page = read_topic("your-own-code")
    (block,) = (b for b in re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL) if having in b)
    return block


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the documented program and its space."""
    (tmp_path / "my.py").write_text(documented("python", "def train(trial)"))
    (tmp_path / "my-loop.yaml").write_text(documented("yaml", "train: my.py:train"))
    return tmp_path


def test_the_documented_loop_is_short() -> None:
    program = documented("python", "def train(trial)")
    assert len(program[program.index("def train") :].splitlines()) < 12
    assert len(program.splitlines()) < 30


@pytest.mark.parametrize("command", [("validate", "my.yaml"), ("search", "--dry-run", "--space", "my.yaml")])
def test_looking_at_a_space_says_what_it_would_import_and_imports_nothing(
    samtune: Run, tmp_path: Path, command: tuple[str, ...]
) -> None:
    (tmp_path / "my.py").write_text(MARKING)
    space = {"name": "my", "train": "my.py:train", "method": "sam", "config": {"width": {"log_int": [4, 64]}}}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(space))
    done = samtune(*command)
    assert done.returncode == 0, done.stderr
    said = "".join(done.stdout.split())  # a plan is folded to the terminal's width
    assert re.search("config.width:?log_int4…64", said)
    assert f"({tmp_path / 'my.py'})" in said
    assert not (tmp_path / "imported").exists()


def test_a_function_alone_is_a_space_that_set_changes(samtune: Run, tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text(MARKING)
    sets = ["--set", "config.width={int: [4, 8]}", "--set", "method=gsam", "--set", "training.epochs=3"]
    done = samtune("search", "--train", "my.py:train", *sets, "--dry-run", "--json")
    plan = json.loads(done.stdout)
    assert (plan["name"], plan["method"], plan["epochs"]) == ("my", "gsam", [3, 3])
    assert plan["searched"] == {"config.width": "int 4 … 8"}
    assert plan["files"] == [str(tmp_path / "my.py")]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--train", "my.py:tain"], r"train: \S+/my\.py:tain: cannot be imported: \S+/my\.py has no tain"),
        (["--train", "other.py:train"], r"train: \S+/other\.py:train cannot be imported: .* No such file or directory"),
        (["--train", "my.py"], r"train: must be folder/file\.py:function or package\.module:function \(got 'my\.py'\)"),
        (["--train", "my.py:takes_two"], r"train: \S+my\.py:takes_two cannot be called with \(…\): missing a required"),
        (["--train", "my.py:train", "--set", "model=mlp"], r"model: my\.py:train makes its own: leave model out"),
        (["--train", "my.py:train", "--set", "training.ema=0.9"], r"training\.ema: is for samtune's own loop; my\.py:"),
        (["--train", "my.py:train", "--estimate"], r"--estimate: times samtune's own loop, and \S+my\.py:train is"),
        (["--space", "digits.yaml", "--set", "config.width=3"], r"config: needs train, a training function, which"),
        (["--train", "my.py:train", "--resume", "x"], r"--resume x: the study has its own --train; leave it out"),
    ],
)
def test_bad_input_is_one_line(samtune: Run, tmp_path: Path, arguments: list[str], line: str) -> None:
    (tmp_path / "my.py").write_text(MARKING)
    done = samtune("search", *arguments, *([] if "--resume" in arguments else ["--dry-run"]))
    assert done.returncode == 2
    assert done.stdout == ""
    (said,) = done.stderr.splitlines()
    assert re.search(line, said), said
    assert not (tmp_path / "imported").exists()


@pytest.mark.cluster
def test_the_documented_loop_is_searched_stopped_and_confirmed(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    program = folder / "my.py"
    program.write_text(
        re.sub(r"(def train\(.*\n)", r'\1    print("width", trial.config["width"])\n', program.read_text())
    )
    storage = str(folder / "results")
    kept = ["--storage-path", storage]
    done = run_samtune("search", "--space", "my-loop.yaml", "--name", "mine", *kept, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert f"imports train {folder}/my.py:train" in done.stderr + done.stdout
    first = Results.load("mine", storage).study
    assert first.count(TrialState.COMPLETED) >= 1
    assert first.count(TrialState.PRUNED) >= 1  # ASHA ends the loop
    assert first.count(TrialState.COMPLETED, TrialState.PRUNED) == first.num_trials == 8
    for trial in first:
        if trial.state is TrialState.COMPLETED:
            assert output_of(first, trial) == f"width {trial.config['config.width']}\n"
    best = first.best
    assert best is not None
    assert best.metrics["val_accuracy"] > 0.6
    assert best.metrics["num_passes"] == 10
    assert {"train_loss", "val_loss", "sharpness", "lr"} <= best.metrics.keys()
    assert 4 <= best.config["config.width"] <= 64  # type: ignore[operator]

    more = ("search", "--resume", "mine", "--num-trials", "10", "--dry-run", "--json", *kept)
    resumed = run_samtune(*more, cwd=folder / "elsewhere")  # where there is no my.py
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["files"] == [str(program)]

    tested = run_samtune("confirm", "mine", "--top", "1", "--replicas", "2", "--json", *kept, cwd=folder / "elsewhere")
    assert tested.returncode == 0, tested.stderr
    confirmed = Results.load("mine-confirm", storage).study
    assert all(0.4 < trial.metrics["test_accuracy"] <= 1 for trial in confirmed)
    assert {trial.params["method.name"] for trial in confirmed} == {"sam", "sgd"}
    assert (folder / "results" / "mine-confirm" / "best.safetensors").exists()
