"""Storage that a node cannot reach is found before a search starts."""

from __future__ import annotations

from pathlib import Path

import pyarrow.fs as pafs
import pytest
from ray.cluster_utils import Cluster

from samtune.errors import UsageError
from samtune.raylib.cluster import connected, look_at_cluster
from samtune.raylib.storage_check import check_storage
from samtune.storage import open_storage

pytestmark = pytest.mark.cluster


def test_a_node_that_cannot_reach_the_store_is_named_and_no_probe_is_left(
    s3: str, s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The store is found by the environment, which is another one on the second node.
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{s3_server}")
    storage = s3.partition("?")[0] + "?region=us-east-1"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        with connected(cluster.address):
            check_storage(storage, look_at_cluster().nodes)
        cluster.add_node(num_cpus=1, env_vars={"AWS_ENDPOINT_URL": "http://127.0.0.1:1"})
        with connected(cluster.address):
            nodes = look_at_cluster().nodes
            assert len(nodes) == 2
            check_storage(str(tmp_path / "studies"), nodes)
            with pytest.raises(UsageError, match=r"storage_path s3://.*: node [\d.]+ cannot use it: .*") as caught:
                check_storage(storage, nodes)
    finally:
        cluster.shutdown()
    assert len(str(caught.value)) < 700
    filesystem, path = open_storage(storage)
    assert not list(filesystem.get_file_info(pafs.FileSelector(path)))
    assert not list((tmp_path / "studies").iterdir())
