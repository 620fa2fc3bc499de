"""While a cluster starts: Ray's functions and the variables are back afterwards, and imports wait for the wait."""

from __future__ import annotations

import os
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
    from samtune.raylib.environment import START_VARIABLES

    def variables():
        return {each.name: os.environ[each.name] for each in START_VARIABLES if each.name in os.environ}

    seen = {}
    before = variables()
    assert before == {"RAY_raylet_client_num_connect_attempts": "700"}
    is_waiting = threading.Event()

    def note():
        is_waiting.wait()
        seen["waiting"] = time.monotonic()

    thread = threading.Thread(target=note)
    thread.start()
    with connected("local", is_waiting=is_waiting):
        up = time.monotonic()
        assert "samtune.raylib.group_trainer" in sys.modules
        assert variables() == before
        import ray
        given = ray.get(ray.remote(num_cpus=0)(variables).remote())
        assert given == {each.name: each.value for each in START_VARIABLES} | before, given
        assert ray.cluster_resources()["CPU"] >= 1
    thread.join()
    assert seen["waiting"] < up, (seen, up)
    print("done")
"""


@pytest.mark.cluster
def test_others_hear_of_the_wait_and_only_the_cluster_keeps_the_variables(tmp_path: Path) -> None:
    script = tmp_path / "start.py"
    script.write_text(textwrap.dedent(SCRIPT), encoding="utf-8")
    environment = os.environ | {"RAY_raylet_client_num_connect_attempts": "700"}  # the user's own stays
    call = [sys.executable, str(script)]
    found = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert found.stdout == "done\n", found.stderr
    assert found.returncode == 0


def test_where_the_node_does_not_come_ray_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client does not answer either: the patience is not used up."""
    monkeypatch.setattr(services, "get_node", lambda gcs_address, node_id: f"looked for {node_id}")
    started = time.monotonic()
    with without_long_waits():
        assert services.get_node("no address", "ab") == "looked for ab"
    assert time.monotonic() - started < 20
