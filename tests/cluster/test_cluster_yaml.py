"""cluster.yaml by Ray's own loader and schema, and by what the rest of the project says."""

from __future__ import annotations

import copy
import re
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.ray_internals import AutoscalingConfig, prepare_config, validate_config

ROOT = Path(__file__).parents[2]
TOKEN = "~/.ray/auth_token"


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(ROOT)  # file mounts are relative to the checkout
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    return loaded


def test_ray_s_loader_and_schema_take_it(config: dict[str, Any]) -> None:
    validate_config(prepare_config(copy.deepcopy(config)))
    config["avilable_node_types"] = {}
    with pytest.raises(Exception, match="avilable_node_types"):
        validate_config(prepare_config(config))


def test_the_autoscaler_starts_nothing_by_itself_and_spot_before_on_demand(config: dict[str, Any]) -> None:
    parsed = AutoscalingConfig(prepare_config(copy.deepcopy(config)), skip_content_hash=True)
    types = parsed.get_node_type_configs()
    workers = {name: node for name, node in types.items() if name != "head"}
    assert {name: node.min_worker_nodes for name, node in workers.items()} == dict.fromkeys(workers, 0)
    for size, gpus in (("gpu1", 1), ("gpu8", 8)):
        spot, on_demand = workers[f"{size}-spot"], workers[f"{size}-on-demand"]
        assert spot.priority > on_demand.priority
        assert spot.resources == on_demand.resources
        assert spot.resources["GPU"] == gpus
    markets = {name: "InstanceMarketOptions" in config["available_node_types"][name]["node_config"] for name in workers}
    assert markets == {name: name.endswith("-spot") for name in workers}
    assert types["head"].resources["CPU"] == 0  # the workers of a search are not placed on the head
    assert parsed.get_idle_timeout_s() == 600


def test_ray_is_the_one_that_is_tested_and_every_file_mount_is_there(config: dict[str, Any]) -> None:
    commands = "\n".join(config["setup_commands"])
    assert f"ray[default]=={version('ray')}" in commands
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "--python 3.11." in commands
    assert project["project"]["requires-python"].startswith(">=3.11")
    mounts = {remote: source for remote, source in config["file_mounts"].items() if remote != TOKEN}
    assert all((ROOT / source).exists() for source in mounts.values())


def test_what_is_downloaded_and_run_is_pinned(config: dict[str, Any]) -> None:
    commands = "\n".join(config["setup_commands"])
    assert not re.search(r"(curl|wget)", commands)
    (uv,) = re.findall(r"echo '(uv==[^']*)'", commands)
    assert re.fullmatch(r"uv==\d+\.\d+\.\d+( --hash=sha256:[0-9a-f]{64}){2}", uv)
    installs = re.findall(r"pip install (.*?)(?: &&|\n|$)", commands)
    assert len(installs) == 2
    assert "--require-hashes" in installs[0]
    packages = [word for word in installs[1].split() if not word.startswith("-")]
    assert packages[-1] == "~/samtune"
    assert all(re.fullmatch(r"'[\w\[\]]+==[\d.]+'", package) for package in packages[:-1])


def test_everything_that_talks_to_the_cluster_needs_the_token(config: dict[str, Any]) -> None:
    assert config["file_mounts"][TOKEN] == TOKEN  # from this machine to the head, and from there to the workers
    assert f"chmod 600 {TOKEN}" in config["setup_commands"]
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    starts = [command for command in starts if "ray start" in command]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token ray start " in command for command in starts)
    assert any("export RAY_AUTH_MODE=token" in command for command in config["setup_commands"])  # of the drivers


def test_workers_have_rights_of_their_own_and_ssh_is_not_open_to_the_world(config: dict[str, Any]) -> None:
    types = {name: node["node_config"] for name, node in config["available_node_types"].items()}
    assert all(node["SecurityGroupIds"] == ["sg-FILL-IN"] for node in types.values())
    assert "IamInstanceProfile" not in types.pop("head")  # Ray's own, which starts machines
    assert {node["IamInstanceProfile"]["Name"] for node in types.values()} == {"samtune-worker"}
    text = (ROOT / "cluster.yaml").read_text()
    assert '"Action": "iam:PassRole",\n#     "Resource": "arn:aws:iam::ACCOUNT:role/samtune-worker"' in text
    assert '"Resource": "*"' not in text


def test_nothing_listens_to_the_world(config: dict[str, Any]) -> None:
    commands = "\n".join(config["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in commands
    assert "--host 127.0.0.1" in commands
    assert "0.0.0.0" not in (ROOT / "cluster.yaml").read_text()
