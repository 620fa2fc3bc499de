"""A stranger's space or study runs nothing before the user has said that it may."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from helpers.command import run_samtune

from samtune.store.journal import FILE_NAME

TINY = {
    "name": "tiny",
    "num_trials": 1,
    "data": {"name": "digits", "num_train": 128},
    "model": {"name": "mlp", "width": 8, "depth": 2},
    "method": {"name": "sam"},
    "training": {"epochs": 1, "batch_size": 32},
    "search": {"method.rho": {"uniform": [0.01, 0.1]}},
    "resources": {"num_workers": 1},
}
OWN = """
import pathlib
pathlib.Path(__file__).with_name("imported").touch()


def data(mark):
    import torch

    pathlib.Path(mark).touch()
    return (torch.randn(64, 2), torch.arange(64) % 2), (torch.randn(64, 2), torch.arange(64) % 2)
"""


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder with a space that runs a command in place of loading data, and code that leaves a file."""
    command = f"touch {tmp_path / 'ran'}"
    space = {**TINY, "data": {"name": "os:system", "options": {"command": command}}}
    (tmp_path / "hostile.yaml").write_text(yaml.safe_dump(space))
    (tmp_path / "own_code.py").write_text(OWN)
    own = {**TINY, "data": {"name": "own_code:data", "options": {"mark": str(tmp_path / "ran")}}}
    own |= {"sampler": {"name": "own_code:data"}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    loop = {key: value for key, value in TINY.items() if key not in ("data", "model")}
    loop |= {"train": "own_code.py:data", "config": {"mark": "os:system"}}
    (tmp_path / "loop.yaml").write_text(yaml.safe_dump(loop))
    return tmp_path


@pytest.mark.parametrize("space", ["hostile.yaml", "own.yaml", "loop.yaml"])
@pytest.mark.parametrize(
    "command", [("validate",), ("search", "--dry-run", "--space"), ("search", "--estimate", "--space")]
)
def test_looking_at_a_space_runs_nothing_of_it(hostile: Path, command: tuple[str, ...], space: str) -> None:
    done = run_samtune(*command, space, cwd=hostile)
    assert not (hostile / "ran").exists()
    assert not (hostile / "imported").exists()
    if "--estimate" in command:
        assert done.returncode == 2
        assert "and it imports data.name" in done.stderr or "--estimate: times samtune's own loop" in done.stderr
        assert "--trust" in done.stderr or space == "loop.yaml"
    else:
        assert done.returncode == 0, done.stderr
        where = "builtintoPython" if space == "hostile.yaml" else str(hostile / "own_code.py")
        assert where in "".join(done.stdout.split())  # may be wrapped


def stranger_study(folder: Path, space: dict[str, object]) -> None:
    """A study as somebody else sent it: a journal with one interrupted trial."""
    study = folder / "samtune-results" / "theirs"
    study.mkdir(parents=True)
    header = {
        "event": "study",
        "time": 1.0,
        "name": "theirs",
        "kind": "search",
        "num_trials": 2,
        "space_yaml": yaml.safe_dump(space),
        "plan": {},
        "storage_path": str(study),
        "tracking_uri": f"sqlite:///{folder}/samtune-results/mlflow.db",
        "experiment": "theirs",
        "command": "samtune search",
        "objectives": [{"metric": "val_accuracy", "mode": "max"}],
        "versions": {},
        "experiment_id": None,
        "parent_run_id": None,
        "started_at": 1.0,
        "signature": "0" * 64,
    }
    config = {"method.rho": 0.05}
    trial = {"event": "trial", "time": 2.0, "id": "a_0", "number": 0, "config": config, "params": config}
    trial |= {"num_epochs": 1, "started_at": 2.0, "perturbations": []}
    epoch = {"event": "epoch", "time": 3.0, "id": "a_0", "metrics": {"epoch": 1.0, "val_accuracy": 0.5}, "place": None}
    end = {"event": "end", "time": 4.0, "id": "a_0", "state": "completed", "error": None, "traceback": None}
    end |= {"diverged": False, "started_at": 2.0, "ended_at": 4.0}
    (study / FILE_NAME).write_text("".join(json.dumps(line) + "\n" for line in (header, trial, epoch, end)))


@pytest.mark.parametrize(
    ("space", "imported"), [("hostile.yaml", "data.name os:system"), ("loop.yaml", "train own_code.py:data")]
)
@pytest.mark.parametrize("command", [("search", "--resume", "theirs"), ("confirm", "theirs", "--top", "1")])
def test_a_study_of_somebody_else_asks_before_it_imports(
    hostile: Path, command: tuple[str, ...], space: str, imported: str
) -> None:
    stranger_study(hostile, yaml.safe_load((hostile / space).read_text()))
    done = run_samtune(*command, cwd=hostile)
    assert done.returncode == 2, done.stderr
    assert f"study theirs was not begun by this user on this machine, and it imports {imported}" in done.stderr
    assert "config.mark" not in done.stderr  # what the function reads is imported by nobody else
    assert "--trust" in done.stderr
    for read in (("status", "theirs"), ("search", "--resume", "theirs", "--dry-run")):
        done = run_samtune(*read, cwd=hostile)
        assert done.returncode == 0, done.stderr
    assert not (hostile / "ran").exists()
    assert not (hostile / "imported").exists()


@pytest.mark.cluster
def test_one_s_own_study_resumes_unasked_and_libraries_keep_out_of_the_working_directory(hostile: Path) -> None:
    for name in ("redis", "wandb", "aim", "comet_ml"):  # which Ray and others look for
        (hostile / f"{name}.py").write_text(f"open({str(hostile / 'trap')!r}, 'a').write({name!r})\n")
    own = yaml.safe_load((hostile / "own.yaml").read_text())
    del own["sampler"]
    (hostile / "own.yaml").write_text(yaml.safe_dump(own))
    first = run_samtune("search", "--space", "own.yaml", "--name", "mine", cwd=hostile)
    assert first.returncode == 0, first.stderr
    assert f"imports data.name own_code:data ({hostile / 'own_code.py'})" in first.stdout
    again = run_samtune("search", "--resume", "mine", "--num-trials", "2", cwd=hostile)
    assert again.returncode == 0, again.stderr
    assert not (hostile / "trap").exists()
    journal = hostile / "samtune-results" / "mine" / FILE_NAME
    changed_by_somebody, count = re.subn(r"(batch_size\W+)32", r"\g<1>16", journal.read_text())
    assert count > 0
    journal.write_text(re.sub(r', "crc": "\w+"', "", changed_by_somebody))  # which anybody can make again
    changed = run_samtune("search", "--resume", "mine", "--num-trials", "3", cwd=hostile)
    assert changed.returncode == 2
    assert "was not begun by this user on this machine" in changed.stderr
