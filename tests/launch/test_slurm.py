"""The batch script for Slurm: right for bash, asks Slurm for what it was told, runs a search, and resumes it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from helpers.command import CLEAN, wait_for_no_ray_process
from helpers.waiting import wait_after
from typer.testing import CliRunner

from samtune.cli.app import app
from samtune.config.search import ResourcesConfig
from samtune.errors import ResourceError, UsageError
from samtune.launch.slurm import SlurmJob

CPU = ResourcesConfig(gpus_per_worker=0)


def directives(job: SlurmJob) -> list[str]:
    return re.findall(r"^#SBATCH --(.*)$", job.script(), re.MULTILINE)


def test_slurm_is_asked_for_what_was_given():
    job = SlurmJob("my.yaml", "mine", nodes=4, time="1-12", gpus=8, cpus=64, partition="a100,h100", account="lab")
    assert directives(job) == [
        *("job-name=mine", "nodes=4", "ntasks-per-node=1", "cpus-per-task=64", "gpus-per-node=8"),
        *("time=1-12", "partition=a100,h100", "account=lab"),
        *("signal=B:TERM@120", "requeue", "open-mode=append", "output=%x-%j.log"),
    ]


def test_what_was_not_given_is_slurm_s_own():
    lines = directives(SlurmJob("my.yaml", "mine"))
    assert not any(line.startswith(("time", "partition", "account", "gpus")) for line in lines)


def test_the_script_is_right_for_bash_and_quotes_what_the_user_wrote(tmp_path):
    job = SlurmJob("it's; rm -rf $HOME.yaml", "a", storage_path="/a b/$(c)", tracking_uri="x y")
    file = tmp_path / "job.sh"
    file.write_text(job.script(), encoding="utf-8")
    assert subprocess.run(["bash", "-n", file], check=False).returncode == 0
    assert "'it'\"'\"'s; rm -rf $HOME.yaml'" in job.script()
    assert "'/a b/$(c)'" in job.script()
    assert "@" not in re.sub(r"TERM@120|\[@\]|@:[12]", "", job.script())  # everything is filled in
    if shutil.which("shellcheck"):
        checked = subprocess.run(["shellcheck", "--exclude=SC2016", file], check=False, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nodes": 0}, "nodes 0: must be at least 1"),
        ({"cpus": 0}, "cpus 0: must be at least 1"),
        ({"gpus": -1}, "gpus -1: must be at least 0"),
        ({"time": "4h"}, "time 4h: must be as Slurm writes it: minutes, 4:00:00 (hours) or 1-12 (days-hours)"),
        ({"time": "4:00\n#SBATCH --x"}, "must be as Slurm writes it"),
        ({"study": "a/b"}, "name a/b: must be letters"),
        ({"partition": "x\ny"}, "must be letters"),
    ],
)
def test_what_slurm_would_refuse_is_refused_here(change, message):
    with pytest.raises(UsageError) as error:
        SlurmJob(**{"space": "my.yaml", "study": "mine", **change}).check(CPU)
    assert message in str(error.value)


@pytest.mark.parametrize("time", ["30", "4:00:00", "90:30", "1-12", "2-0:30", "2-00:30:00"])
def test_times_as_slurm_writes_them(time):
    SlurmJob("my.yaml", "mine", time=time).check(CPU)


def test_workers_that_the_nodes_can_never_hold_are_refused():
    with pytest.raises(ResourceError, match="16 workers"):
        SlurmJob("my.yaml", "mine", nodes=2, gpus=4).check(ResourcesConfig(num_workers=16))
    SlurmJob("my.yaml", "mine", nodes=2, gpus=8).check(ResourcesConfig(num_workers=16))


def test_the_command_writes_the_script(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["slurm", "digits.yaml", "--nodes", "2", "-o", "job.sh"])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "job.sh").read_text(encoding="utf-8")
    assert "#SBATCH --nodes=2\n" in text
    assert '--space digits.yaml --name "$study"' in text
    assert f"--storage-path {tmp_path}/samtune-results" in text
    again = CliRunner().invoke(app, ["slurm", "digits.yaml", "-o", "job.sh"])
    assert "is there already" in str(again.exception)


# -- for real: a search on two "nodes" of this machine -----------------------------------------------------------------

FAKES = {
    "srun": 'while [[ "$1" == --* ]]; do shift; done\nexec "$@"\n',
    "scontrol": 'case $1 in show) printf "a.invalid\\nb.invalid\\n" ;; *) echo "$@" >> requeued ;; esac\n',
}
SPACE = """
name: batch
data: {name: digits, num_train: 300}
model: {name: mlp, depth: 2, width: 8}
method: sam
training: {epochs: 2, batch_size: 100, metrics: ["waits:held"]}
num_trials: 6
resources: {num_workers: 2}
search: {method.rho: {log_uniform: [0.01, 0.5]}}
"""


def completed(output: str) -> set[str]:
    """The trials that a search says are completed."""
    return set(re.findall(r"\] trial (\d+) completed", output))


@pytest.mark.cluster
def test_a_job_that_slurm_ends_is_queued_again_and_resumes(tmp_path):
    """What Slurm does is imitated: a node list, steps, SIGTERM to the script. The search and its Ray are real."""
    for name, body in FAKES.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "my.yaml").write_text(SPACE, encoding="utf-8")
    gate, _ = wait_after(tmp_path, epochs=3)  # one group, on both nodes: it ends a trial, and waits in the next
    job = SlurmJob(str(tmp_path / "my.yaml"), "batch", nodes=2, cpus=1, storage_path=str(tmp_path / "results"))
    job.check(CPU)
    (tmp_path / "job.sh").write_text(job.script(), encoding="utf-8")
    number = str(os.getpid())
    env = {**CLEAN, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": number, "SLURM_CPUS_PER_TASK": "1"}
    env |= {"SLURM_JOB_NODELIST": "node-[a-b]", "OMP_NUM_THREADS": "1"}
    log = tmp_path / "log"

    def submit() -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            command = ["bash", str(tmp_path / "job.sh")]
            return subprocess.Popen(command, cwd=tmp_path, env=env, stdout=output, stderr=output)

    first = submit()
    deadline = time.monotonic() + 400
    while not completed(log.read_text(encoding="utf-8")):
        assert time.monotonic() < deadline, log.read_text(encoding="utf-8")
        assert first.poll() is None, log.read_text(encoding="utf-8")
        time.sleep(0.2)
    first.send_signal(signal.SIGTERM)
    assert first.wait(300) == 143, log.read_text(encoding="utf-8")
    assert Path(tmp_path / "requeued").read_text(encoding="utf-8") == f"requeue {number}\n"
    wait_for_no_ray_process()
    gate.unlink()
    before = log.read_text(encoding="utf-8")
    assert "Ray runs on 2 of 2 nodes" in before
    assert submit().wait(300) == 0, log.read_text(encoding="utf-8")
    after = log.read_text(encoding="utf-8").removeprefix(before)
    assert not completed(before) & completed(after)  # what was finished is not run again
    assert len(completed(before)) < len(completed(before) | completed(after)) == 6
    wait_for_no_ray_process()
