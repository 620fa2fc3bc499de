"""What a search plans on a cluster that can still grow, and what autoscalers say of themselves."""

from __future__ import annotations

from typing import Any

import pytest
import ray
from helpers.ray_internals import set_cluster_config

from samtune import SearchSpace
from samtune.errors import ResourceError
from samtune.experiments.plan import plan_search
from samtune.raylib.cluster import Node, addable_nodes
from samtune.terminal.plan import format_plan


def space(*changes: str) -> SearchSpace:
    return SearchSpace.from_yaml("digits.yaml", ["resources.num_workers=2", "num_trials=40", *changes])


def test_groups_that_wait_for_nodes_are_planned_and_said() -> None:
    plan = plan_search(space("resources.gpus_per_worker=auto"), [Node(0, 0), Node(8, 1)], addable=[Node(192, 8)] * 3)
    assert plan.gpus_per_worker == 1.0
    assert plan.num_groups == 12  # (1 + 3 x 8) GPUs hold 25 workers
    assert plan.num_waiting == 12  # the one GPU there is holds half a group
    assert dict(format_plan(plan))["workers"].endswith("1 GPU (12 of them wait for nodes)")


def test_a_head_without_cpus_can_start_a_search_where_nodes_may_come() -> None:
    plan = plan_search(space("max_concurrent=3"), [Node(0, 0)], addable=[Node(4, 0)] * 10)
    assert (plan.num_groups, plan.num_waiting) == (3, 3)
    with pytest.raises(ResourceError):
        plan_search(space(), [Node(0, 0)])


def test_what_the_autoscaler_may_add_is_what_its_types_allow_less_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes: list[dict[str, Any]] = [
        {"Alive": True, "Labels": {"ray.io/node-group": "head"}},
        {"Alive": True, "Labels": {"ray.io/node-group": "gpu1-spot"}},
        {"Alive": False, "Labels": {"ray.io/node-group": "gpu1-spot"}},
    ]
    groups = {"gpu1-spot": (3, {"CPU": 8, "GPU": 1}), "head": (0, {"CPU": 0})}
    set_cluster_config(monkeypatch, groups)
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    assert addable_nodes() == [Node(8, 1)] * 2
    set_cluster_config(monkeypatch, None)
    assert addable_nodes() == []
