"""What is said of a worker process that is gone, from what Ray says and from what the process wrote last."""

from __future__ import annotations

import subprocess
import sys

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError

from samtune.raylib.worker_loss import WorkerLossCallback, loss_of
from samtune.workers.worker_endings import describe, kernel_kills

GONE = (
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker "
    "unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was "
    "killed by the OOM killer due to high memory usage, (2) ray stop --force was called"
)
EXITED = "Worker exit type: SYSTEM_ERROR Worker exit detail: Worker exits unexpectedly. Worker exits with an exit code "
OUT_OF_MEMORY = (
    "3 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 127.0.0.1, ID: 3bd3) was "
    "6.83GB used / 23.54GB limit (0.289966) OOM kill reason: Memory usage 7276216320B exceeded threshold of 6951037952B"
)
CRASH = """:job_id:01000000
*** SIGSEGV received at time=1795776371 on cpu 1 ***
Fatal Python error: Segmentation fault

Stack (most recent call first):
  File "/home/a/loss.py", line 9 in sharp
  File "/home/a/train.py", line 40 in step
"""


@pytest.mark.parametrize(
    ("ray_says", "written", "expected"),
    [
        (GONE, ":job_id:01000000\n", "was killed by SIGKILL, or ended by native code without a word"),
        (GONE, CRASH, "crashed: Segmentation fault in sharp (/home/a/loss.py, line 9)"),
        (GONE, "Fatal Python error: Aborted\n", "crashed: Aborted"),
        (GONE, "x\nsamtune: this worker called os._exit(3) (a.py, line 2)\n", "called os._exit(3) (a.py, line 2)"),
        (EXITED + "1. The process receives a SIGTERM.", "", "was ended by SIGTERM"),
        (EXITED + "3.", "", "ended with exit code 3"),
        (OUT_OF_MEMORY, CRASH, "was ended by Ray's memory monitor: node 127.0.0.1 had 6.83GB of 23.54GB in use"),
        ("The actor died because its node has died. Node Id: 1", "", "was lost with its node"),
        ("something new\nof Ray's", "", "ended: something new of Ray's"),
    ],
)
def test_how_a_process_ended(ray_says: str, written: str, expected: str) -> None:
    assert describe(ray_says, written) == expected


def test_a_lack_of_memory_is_told_from_a_kill() -> None:
    assert describe(GONE, "", killed_by_kernel=True) == "was killed by the kernel, since its node ran out of memory"
    assert describe(GONE, CRASH, killed_by_kernel=True).startswith("crashed: ")
    assert kernel_kills() >= 0


def test_a_rank_that_raised_is_told_of_as_no_loss() -> None:
    told: list[dict[int, str]] = []
    callback = WorkerLossCallback(told.append)
    callback.after_exception(None, {0: RuntimeError("a collective broke")})
    assert told == [{}]
    callback.after_exception(None, {0: RuntimeError("a collective broke"), 1: ActorDiedError()})
    assert list(told[1]) == [1]
    assert loss_of(ActorUnavailableError("gone", b"0" * 16)) is not None


EXITS = """
import os, sys
from samtune.workers.worker_endings import note_calls_of_exit
note_calls_of_exit()
if os.fork() == 0:
    os._exit(0)
os.wait()
os._exit(3)
"""


def test_a_call_of_exit_is_noted_and_that_of_a_forked_child_is_not() -> None:
    done = subprocess.run([sys.executable, "-c", EXITS], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr == "\nsamtune: this worker called os._exit(3) (<string>, line 8)\n"
    assert describe(GONE, done.stderr) == "called os._exit(3) (<string>, line 8)"
