"""During a search on one machine, nothing that it starts listens to the network; SIGTERM then ends it in order."""

from __future__ import annotations

import ipaddress
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml
from helpers.command import CLEAN, SAMTUNE, wait_for_no_ray_process

SPACE = {
    "name": "sockets",
    "num_trials": 1000,
    "data": {"name": "digits", "num_train": 128},
    "model": {"name": "mlp", "width": 8, "depth": 2},
    "method": {"name": "sam"},
    "training": {"epochs": 4, "batch_size": 32},
    "resources": {"num_workers": 2, "cpus_per_worker": 0.5},
    "search": {"method.rho": {"uniform": [0.01, 0.1]}},
}


def listening(process: psutil.Process) -> dict[tuple[str, int], str]:
    """Where the processes of a tree listen: (address, port) -> a process's name."""
    found = {}
    for each in [process, *process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            for connection in each.net_connections("inet"):
                if connection.status == psutil.CONN_LISTEN or (connection.type == 2 and not connection.raddr):
                    found[connection.laddr.ip, connection.laddr.port] = each.name()
    return found


def is_loopback(address: str) -> bool:
    ip = ipaddress.ip_address(address)
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback


@pytest.mark.cluster
def test_every_port_of_a_search_is_on_loopback_and_sigterm_ends_it_in_order(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    command = [
        *SAMTUNE,
        "search",
        "--space",
        "space.yaml",
        "--name",
        "s",
        "--address",
        "local",
        "--max-concurrent",
        "1",
    ]
    search = subprocess.Popen(command, cwd=tmp_path, env=CLEAN, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    seen: dict[tuple[str, int], str] = {}
    journal = tmp_path / "samtune-results" / "s" / "journal.jsonl"
    try:
        while search.poll() is None:  # from the first moment: a port that is open for a second counts
            ended = journal.exists() and '"event": "end"' in journal.read_text()
            with suppress(psutil.NoSuchProcess):
                seen |= listening(psutil.Process(search.pid))
            if ended:
                search.terminate()
                break
            time.sleep(0.1)
        output = search.communicate(timeout=300)[0].decode()
    finally:
        search.kill()
    names = " ".join(seen.values())
    assert "raylet" in names, output
    assert "gcs_server" in names
    assert "RayTrainWorker" in names  # the ranks' store, and gloo
    assert {key: name for key, name in seen.items() if not is_loopback(key[0])} == {}
    assert search.returncode == 128 + signal.SIGTERM, output
    assert "Traceback" not in output
    assert "samtune search --resume s  # run the trials that are missing" in output
    wait_for_no_ray_process()
