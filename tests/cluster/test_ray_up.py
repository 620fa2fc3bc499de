"""cluster.yaml, really booted: `ray up` by ssh to this machine, a search on it, `ray down`.

`ray stop` ends every Ray of a host and the ports are fixed, so all of it happens in PID, mount and network namespaces
of its own, with an sshd that listens on their loopback.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
UNSHARE = ["unshare", "--pid", "--mount", "--net", "--fork", "--kill-child"]


def _obstacle() -> str | None:
    """Why it cannot be done on this machine."""
    for program in ("unshare", "ssh", "ssh-keygen", "rsync", "curl", "ip", "/usr/sbin/sshd"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    if os.geteuid() != 0:
        return "namespaces and sshd need root"
    if subprocess.run([*UNSHARE, "mount", "-t", "proc", "proc", "/proc"], capture_output=True).returncode != 0:
        return "this container may not make namespaces"
    return None


@pytest.fixture
def work() -> Iterator[Path]:
    """A folder with a short path: sockets in it may have 107 characters."""
    folder = Path(tempfile.mkdtemp(prefix="up", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def write_home(home: Path) -> None:
    """What setup_commands find: the environment is there, but samtune is not in it, and there is no network."""
    environment = home / "samtune-env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    outer = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "outer.pth").write_text("\n".join(outer))
    for name, module in (("ray", "ray.scripts.scripts"), ("mlflow", "mlflow.cli")):
        function = "main" if name == "ray" else "cli"
        script = environment / "bin" / name
        script.write_text(f"#!{environment}/bin/python\nfrom {module} import {function}\n{function}()\n")
        script.chmod(0o755)
    (home / ".bash_profile").write_text(". ~/.bashrc\n")
    (home / ".bashrc").touch()


def write_sshd(work: Path) -> None:
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", work / key], check=True)
    shutil.copy(work / "user.pub", work / "authorized")
    variables = {
        "HOME": work / "home",
        "RAY_TMPDIR": work,
        "RAY_USAGE_STATS_ENABLED": 0,
        "PIP_NO_INDEX": 1,
        "PIP_NO_BUILD_ISOLATION": "false",  # sic: pip reads it as the value of --build-isolation
        "PIP_ROOT_USER_ACTION": "ignore",
        "OMP_NUM_THREADS": 1,
        "MLFLOW_WORKERS": 1,
    }
    settings = " ".join(f"{name}={value}" for name, value in variables.items())
    (work / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1\nHostKey {work}/host\nAuthorizedKeysFile {work}/authorized\nStrictModes no\n"
        f"PidFile {work}/sshd.pid\nUsePAM no\nPermitRootLogin yes\nPermitUserEnvironment no\nSetEnv {settings}\n"
    )


def write_cluster(work: Path) -> None:
    """cluster.yaml for a machine of one's own: another provider, another login, no cloud's node types."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    for key in ("available_node_types", "head_node_type", "max_workers"):
        del config[key]
    config["provider"] = {"type": "local", "head_ip": "127.0.0.1", "worker_ips": []}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(work / "user")}
    config["file_mounts"] = {remote: str(ROOT / source) for remote, source in config["file_mounts"].items()}
    # There is no network: whatever version of it is here.
    config["setup_commands"] = [re.sub(r"'boto3==[\d.]+'", "boto3", line) for line in config["setup_commands"]]
    token = work / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    config["file_mounts"]["~/.ray/auth_token"] = str(token)
    (work / "cluster.yaml").write_text(yaml.safe_dump(config))


def write_space(work: Path) -> None:
    """A space of the user's own."""
    space: dict[str, Any] = yaml.safe_load((ROOT / "search_spaces" / "digits.yaml").read_text())
    space["training"]["epochs"] = 2
    space["resources"], space["max_concurrent"] = {"num_workers": 1}, 1
    (work / "my.yaml").write_text(yaml.safe_dump(space))


def test_a_working_day_on_ray_up(work: Path) -> None:
    if obstacle := _obstacle():
        pytest.skip(obstacle)
    (work / "home").mkdir()
    write_home(work / "home")
    write_sshd(work)
    write_cluster(work)
    write_space(work)
    day = [*UNSHARE, "bash", str(Path(__file__).with_name("loopback.sh")), str(work), sys.executable]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "PYTEST_"))}
    done = subprocess.run(day, env=clean, capture_output=True, text=True, timeout=550)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    summary = json.loads((work / "home" / "search.json").read_text())
    assert summary["num_completed"] == 2
    assert summary["storage_path"] == str(work / "home" / "studies" / "loopback")
    runs = json.loads((work / "runs.json").read_text())["runs"]
    assert len(runs) == 4  # by the MLflow server of the head: two trials, one more, and their parent
    assert {run["info"]["status"] for run in runs} == {"FINISHED"}
    assert "loopback: complete" in done.stdout
    assert "3 completed of 3 trials" in done.stdout
    assert done.stdout.rstrip().endswith("left: 0")
