"""Seconds from a few timed steps."""

from __future__ import annotations

import pytest

from samtune import SearchSpace
from samtune.experiments.estimate import estimate
from samtune.experiments.plan import plan_search
from samtune.raylib.cluster import Node


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["search.method.name={choice: [sgd, sam]}", "search.training.batch_size={choice: [32, 64]}"],
        ["method={choice: [{name: sgd}, {name: frob_sam, num_samples: {int: [2, 4]}}]}", "search={}", "initial=[]"],
        ["training.batch_size=128", "method.m=64", "training.accumulate=2"],
    ],
)
def test_seconds_follow_from_the_step_the_passes_and_the_groups(overrides: list[str]) -> None:
    space = SearchSpace.from_yaml("digits.yaml", [*overrides, "resources.num_workers=2"])
    plan = plan_search(space, [Node(cpus=4, gpus=0)])
    assert plan.num_groups == 2
    found = estimate(space, plan)
    assert found.device == "cpu"
    assert found.num_steps > 0
    first = space.trial(next(space.tree.enumerate(lambda name, key, node: node.extremes()[:1])))
    per_pass = found.step_seconds / first.passes_per_step
    assert found.seconds[0] == pytest.approx(plan.total_passes[0] * plan.steps_per_epoch[0] * per_pass / 2)
    assert found.seconds[1] == pytest.approx(plan.total_passes[1] * plan.steps_per_epoch[1] * per_pass / 2)
    assert "for all trials if none " in str(found)
