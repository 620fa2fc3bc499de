"""What a machine does not give: limits of a process, a home, the right to write. One line, before Ray starts."""

from __future__ import annotations

import ctypes
import json
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.command import CLEAN, SAMTUNE, wait_for_no_ray_process
from helpers.dataset_files import write_cifar10_parquet
from helpers.studies import edit_journal, make_study

from samtune.config.space import SearchSpace

SEARCH = ["search", "--space", "digits.yaml", "--num-trials", "1", "--address", "local", "--name", "s"]
_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 24, 1, 2


def obey_permissions() -> None:
    """In a child before its program starts: root, too, may only do what the files' modes say."""
    libc = ctypes.CDLL(None)
    for capability in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # fails where it is not root, which obeys already


def run(arguments: list[str], cwd: Path, before: Callable[[], None], **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SAMTUNE, *arguments],
        cwd=cwd,
        env=CLEAN | env,
        preexec_fn=before,
        capture_output=True,
        text=True,
        timeout=100,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize(
    ("kind", "value", "line"),
    [
        (resource.RLIMIT_NOFILE, 64, "the limit of open files (`ulimit -n`) is 64: Ray needs at least 256; raise it"),
        (
            resource.RLIMIT_AS,
            5 * 10**9,
            "the limit of address space (`ulimit -v`) is 5 GB: Ray and torch need",
        ),
    ],
)
def test_a_limit_that_ray_does_not_survive_is_named_before_it_starts(
    kind: int, value: int, line: str, tmp_path: Path
) -> None:
    done = run(SEARCH, tmp_path, lambda: resource.setrlimit(kind, (value, value)))
    assert done.returncode == 2
    assert done.stderr.startswith(f"samtune: error: {line}")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "samtune-results" / "s").exists()  # the name is free for the next try


def test_a_soft_limit_of_open_files_is_raised() -> None:
    code = "from samtune.raylib.limits import check_limits as c; c(); import resource as r; print(r.getrlimit(7)[0])"
    assert resource.RLIMIT_NOFILE == 7
    done = subprocess.run(
        ["bash", "-c", f'ulimit -Sn 64; ulimit -Hn 1000; exec "$0" -c "{code}"', SAMTUNE[0]],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "1000\n"


@pytest.mark.parametrize(
    "command",
    [
        ("search", "--space", "digits.yaml", "--num-trials", "1"),
        ("search", "--resume", "s"),
        ("status", "s"),
        ("validate", "mine.yaml"),
    ],
)
def test_a_deleted_working_directory_is_one_line(command: tuple[str, ...], tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    done = run([*command], folder, folder.rmdir)
    assert done.returncode == 2
    assert done.stderr == "samtune: error: the working directory was deleted: change to another, e.g. `cd ~`\n"


def can_mount() -> bool:
    """Whether a private tmpfs can be mounted here, as root or in a user namespace."""
    mount = ["unshare", "-Urm", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"]
    return not subprocess.run(mount, capture_output=True, check=False).returncode


@pytest.mark.skipif(not can_mount(), reason="no mount namespace for a tmpfs of its own")
def test_no_room_for_processes_that_read_is_told_with_its_place(tmp_path: Path) -> None:
    code = (
        "from samtune.data.semaphores import SemaphoreNames; import multiprocessing as m\n"
        "with SemaphoreNames().collected(): m.get_context('forkserver').Queue()"
    )
    full = 'mount -t tmpfs -o size=4k tmpfs /dev/shm && head -c 9000 /dev/zero > /dev/shm/full; exec "$0" -c "$1"'
    done = subprocess.run(
        ["unshare", "-Urm", "bash", "-c", full, SAMTUNE[0], code], capture_output=True, text=True, check=False
    )
    problem = "no space left for the processes that read images (data.loader_processes: 0 reads without them)"
    assert done.stderr.splitlines()[-1] == f"OSError: [Errno 28] {problem}: '/dev/shm'"


def test_a_ray_that_cannot_start_is_one_line(tmp_path: Path) -> None:
    # Sockets of Unix have short names. (So ends a node process that does not come up in time, which takes 30 s to see.)
    long = tmp_path / ("long" * 30)
    long.mkdir()
    done = run(SEARCH, tmp_path, lambda: None, RAY_TMPDIR=str(long))
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1].startswith("samtune: error: Ray could not be started on this machine: ")
    assert "Traceback" not in done.stderr
    wait_for_no_ray_process()


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A storage path that may only be read, with one study."""
    storage = tmp_path / "storage"
    make_study(storage)
    space = SearchSpace.from_yaml("digits.yaml").to_yaml()
    edit_journal(storage / "digits-1", lambda line: "space_yaml" in line and line.update(space_yaml=space))
    for path in [storage, *storage.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    return storage


def test_a_study_that_may_only_be_read_is_shown_reported_and_exported(foreign: Path, tmp_path: Path) -> None:
    where = ["--storage-path", str(foreign)]
    shown = run(["status", "digits-1", "--json", *where], tmp_path, obey_permissions)
    assert json.loads(shown.stdout)["storage_path"] == str(foreign / "digits-1"), shown.stderr
    reported = run(["report", "digits-1", *where], tmp_path, obey_permissions)
    assert reported.returncode == 0, reported.stderr
    assert (tmp_path / "digits-1.html").stat().st_size > 10_000
    exported = run(["export", "digits-1", "trials.csv", *where], tmp_path, obey_permissions)
    assert exported.returncode == 0, exported.stderr
    resumed = run(
        ["search", "--resume", "digits-1", "--trust", "--num-trials", "99", *where], tmp_path, obey_permissions
    )
    assert resumed.returncode == 2
    assert resumed.stderr.startswith("samtune: error: "), resumed.stderr
    assert str(foreign) in resumed.stderr
    assert resumed.stderr.count("\n") == 1


def test_a_study_that_may_not_be_read_is_one_line(foreign: Path, tmp_path: Path) -> None:
    (foreign / "digits-1" / "journal.jsonl").chmod(0)
    done = run(["status", "digits-1", "--storage-path", str(foreign)], tmp_path, obey_permissions)
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"samtune: error: {foreign}/digits-1/journal.jsonl: cannot be opened: Permission denied"
    )
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("kind", ["missing", "read-only"])
def test_a_cluster_of_this_machine_has_a_token_without_a_home(kind: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o555)
    code = "from samtune.raylib.environment import *; set_token(); print(len(os.environ.get('RAY_AUTH_TOKEN', '')))"
    done = subprocess.run(
        [SAMTUNE[0], "-c", code],
        env=CLEAN | {"HOME": str(home / "none" if kind == "missing" else home)},
        preexec_fn=obey_permissions,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "64\n"


def test_a_cache_that_may_only_be_read_is_one_line(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o555)
    write_cifar10_parquet(tmp_path / "cifar")
    search = ["search", "--space", "cifar.yaml", "--set", f"data.root={tmp_path}/cifar", "--address", "local"]
    done = run(search, tmp_path, obey_permissions, SAMTUNE_CACHE=str(cache))
    assert done.returncode == 2
    problem = f"{cache}: the decoded images cannot be kept there (Permission denied); set the environment variable"
    assert done.stderr.splitlines()[-1].startswith(f"samtune: error: {problem} SAMTUNE_CACHE")
    assert "Traceback" not in done.stderr
