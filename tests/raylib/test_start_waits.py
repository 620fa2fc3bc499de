"""What happens while a cluster starts: Ray's functions are back afterwards, and imports wait for the wait."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from ray._private import services

from samtune.raylib.start_waits import importing_ray_train, telling_of_the_wait, without_long_waits


def test_ray_s_functions_are_as_before_whatever_happens() -> None:
    before = services.get_node, services.start_ray_process
    during = []
    with suppress(RuntimeError), without_long_waits(), telling_of_the_wait(threading.Event()):
        during += [services.get_node, services.start_ray_process]
        raise RuntimeError("no cluster")
    assert not {*before} & {*during}
    assert (services.get_node, services.start_ray_process) == before


def test_a_start_that_never_waits_ends_the_import_s_thread() -> None:
    is_waiting = threading.Event()
    with pytest.raises(RuntimeError, match="no cluster"), importing_ray_train(is_waiting):
        raise RuntimeError("no cluster")
    assert is_waiting.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name == "samtune-import"]


SCRIPT = """
    import os, sys, threading, time

    from samtune.raylib.cluster import connected

    seen = {}
    is_waiting = threading.Event()

    def note():
        is_waiting.wait()
        seen["waiting"] = time.monotonic()

    thread = threading.Thread(target=note)
    thread.start()
    with connected("local", is_waiting=is_waiting):
        up = time.monotonic()
        assert "samtune.raylib.group_trainer" in sys.modules
        assert not [name for name in os.environ if name.startswith("RAY_raylet")]
        import ray
        assert ray.cluster_resources()["CPU"] >= 1
    thread.join()
    assert seen["waiting"] < up, (seen, up)
    print("done")
"""


@pytest.mark.cluster
def test_others_hear_of_the_wait_before_the_cluster_is_up(tmp_path: Path) -> None:
    script = tmp_path / "start.py"
    script.write_text(textwrap.dedent(SCRIPT), encoding="utf-8")
    found = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert found.stdout == "done\n", found.stderr
    assert found.returncode == 0


def test_where_the_node_does_not_come_ray_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client does not answer either: the patience is not used up."""
    monkeypatch.setattr(services, "get_node", lambda gcs_address, node_id: f"looked for {node_id}")
    started = time.monotonic()
    with without_long_waits():
        assert services.get_node("no address", "ab") == "looked for ab"
    assert time.monotonic() - started < 20
